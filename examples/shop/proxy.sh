# Sourced by the examples after start.sh: backstay proxy with the route "shop".
# Nothing is there yet: the first release goes to blue.
port=$(free_port)
SHOP=http://127.0.0.1:$port
PROXY=$PWD/proxy/admin.sock
mkdir -p proxy
cat > proxy.yaml <<YAML
backstay_proxy: v1
listen: [{address: "127.0.0.1:$port"}]
routes:
  - name: shop
    match: {path: /}
    settings:
      health: {path: /healthz, interval: 100ms}
      override: {header: X-Side, from: [127.0.0.0/8]}
    sides:
      - {name: blue, weight: 0}
      - {name: green, weight: 100}
YAML
backstay proxy --config proxy.yaml --state proxy > proxy.log 2>&1 &
SHOP_PIDS+=($!)
until_true backstay proxy status --state proxy
deploy() { backstay deploy -f backstay.yaml --set VERSION="$1" --set SHOP="$SHOP" --set PROXY="$PROXY"; }
serves() { [[ $(curl -fsS --max-time 5 "$SHOP/") == "shop $1" ]] || fail "$1 is not served"; }
