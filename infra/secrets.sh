#!/usr/bin/env bash
# Makes the secrets of compose.yaml in infra/secrets (or in the folder given), which git ignores. A secret that is there
# is kept, so running it again changes nothing; delete a file to rotate it (docs/runbook.md, Rotate keys).
set -euo pipefail
folder="${1:-$(dirname "$0")/secrets}"
mkdir -p "$folder"
chmod 711 "$folder"
for name in ray_token redis_password postgres_password storage_user storage_password grafana_password; do
  [ -s "$folder/$name" ] || printf '%s' "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" > "$folder/$name"
done
cat > "$folder/aws_credentials" <<END
[default]
aws_access_key_id = $(cat "$folder/storage_user")
aws_secret_access_key = $(cat "$folder/storage_password")
END
chmod 644 "$folder"/*  # read by the containers' own users; the folder is not listed
echo "secrets lie in $folder"
