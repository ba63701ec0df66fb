#!/bin/bash
# Makes a database and a role for each service that has one. Runs once, when the volume is empty.
set -euo pipefail

create() {
  psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    --set name="$1" --set password="$2" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT, TEMPORARY ON DATABASE :"name" FROM PUBLIC;
SQL
}

create penstock_orchestrator "$ORCHESTRATOR_DATABASE_PASSWORD"
create penstock_gateway "$GATEWAY_DATABASE_PASSWORD"
