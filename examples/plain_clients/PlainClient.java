// Asks for a run and waits for its end, with Kafka's own Java client and a JSON library. Nothing of Penstock is needed.
//
//   java -cp 'kafka-clients.jar:jackson-databind.jar:…' PlainClient localhost:9092 greet order-4711 '{"name": "Ada"}'

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public final class PlainClient {
    private static final String REQUESTED = "penstock.run.requested.v1";
    private static final String FINISHED = "penstock.run.finished.v1";
    private static final Duration PATIENCE = Duration.ofMinutes(2);
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] arguments) throws Exception {
        String servers = arguments[0];
        String workflow = arguments[1];
        String runId = arguments[2];
        String input = arguments[3];
        Map<String, Object> common = Map.of("bootstrap.servers", servers);
        try (var producer = new KafkaProducer<>(common, new StringSerializer(), new StringSerializer());
                var consumer = new KafkaConsumer<>(common, new StringDeserializer(), new StringDeserializer())) {
            List<TopicPartition> partitions =
                    consumer.partitionsFor(FINISHED).stream()
                            .map(found -> new TopicPartition(FINISHED, found.partition()))
                            .toList();
            consumer.assign(partitions);
            consumer.seekToEnd(partitions);
            partitions.forEach(consumer::position); // look for the end before asking, so that nothing is missed

            String request =
                    JSON.createObjectNode()
                            .put("workflow", workflow)
                            .put("run_id", runId)
                            .set("input", JSON.readTree(input))
                            .toString();
            producer.send(new ProducerRecord<>(REQUESTED, request)).get();

            System.out.println(finished(consumer, runId));
        }
    }

    private static String finished(KafkaConsumer<String, String> consumer, String runId) throws Exception {
        Instant deadline = Instant.now().plus(PATIENCE);
        while (Instant.now().isBefore(deadline)) {
            for (ConsumerRecord<String, String> found : consumer.poll(Duration.ofSeconds(1))) {
                JsonNode end = JSON.readTree(found.value());
                if (end.get("run_id").asText().equals(runId)) {
                    return found.value();
                }
            }
        }
        throw new IllegalStateException("no run.finished for " + runId + " within " + PATIENCE);
    }
}
