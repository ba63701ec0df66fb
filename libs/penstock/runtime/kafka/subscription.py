"""Owns who may subscribe to and publish what: the topic registry's answer."""

import re
from collections.abc import Callable, Sequence

from penstock.contracts.topics import DEAD_LETTER_PREFIX, Deployment, Service, consumed_by, produced_by
from penstock.runtime.errors import NotAllowed


def subscriptions(service: Service, deployment: Deployment) -> tuple[str, ...]:
    """All broker topics a service consumes, in the registry's order."""
    return tuple(name for topic in consumed_by(service) for name in deployment.names(topic))


def check_subscription(service: Service, topics: Sequence[str]) -> None:
    """Raises NotAllowed for a topic that the registry does not let the service consume."""
    if not topics:
        raise NotAllowed(f"{service} subscribes to nothing")
    patterns = [name_pattern(topic.name) for topic in consumed_by(service)]
    for name in topics:
        if not any(pattern.fullmatch(name) for pattern in patterns):
            raise NotAllowed(f"the registry does not let {service} consume {name}")


def name_pattern(name: str) -> re.Pattern[str]:
    """A family's name with each parameter as one part of a topic's name."""
    return re.compile("[^.]+".join(re.escape(part) for part in re.split(r"\{[^}]*\}", name)))


def may_publish(service: Service) -> Callable[[str], bool]:
    """Whether a topic is one the registry lets the service publish; remembers what it was asked."""
    mine = [name_pattern(topic.name) for topic in produced_by(service)]
    heard = [name_pattern(topic.name) for topic in consumed_by(service)]
    answers: dict[str, bool] = {}

    def allowed(topic: str) -> bool:
        answer = answers.get(topic)
        if answer is None:
            own, patterns = topic.removeprefix(DEAD_LETTER_PREFIX), mine
            if own != topic:
                patterns = heard
            answer = answers[topic] = any(pattern.fullmatch(own) for pattern in patterns)
        return answer

    return allowed
