# Every chore by name. `just` alone lists them.

target := env("CARGO_TARGET_DIR", "target")
# The crates of this workspace with their planted bugs, on the dependencies of any other build.
planted := '''build.rustc-workspace-wrapper=".cargo/planted-rustc"'''

[private]
default:
    @just --list --unsorted

# The gate, for people as for machines.
verify:
    .ci/run

# Turns against a server and a provider on this machine, and the checks on them.
demo *args:
    cargo run --release -p dispatch -- demo {{args}}

# Seeded simulations of the core: so many seeds, from a first one on; what fails is made small.
sim seeds="2000" from="0" *args:
    cargo run --release -p dispatch-sim -- sweep --seeds {{seeds}} --from {{from}} {{args}}

# The network ring: the whole host on a simulated network.
sim-network seeds="200" from="0":
    cargo run --release -p dispatch-sim -- sweep --ring network --seeds {{seeds}} --from {{from}}

# The replica ring: three replicas and a store node on madsim.
sim-replicas seeds="200" from="0":
    REPLICA_RING_SEEDS={{seeds}} REPLICA_RING_FROM={{from}} cargo madsim -- --nocapture l9

# Kills and worse for the real binary: `sqlite` or `postgres`. Broken off, it goes on when called again.
chaos store="sqlite" turns="5000" kills="300" seed="1" minutes="50":
    CHAOS_STORE={{store}} CHAOS_TURNS={{turns}} CHAOS_KILLS={{kills}} CHAOS_SEED={{seed}} CHAOS_MINUTES={{minutes}} \
        cargo test -p dispatch --test chaos -- --ignored --nocapture v7_chaos_for_long

# Other computers for long: a command of a minute, hundreds of starts, a thousand links.
ssh-long seed="1":
    SSH_CUTS_SEED={{seed}} cargo test --workspace --test ssh_cuts --test ssh_cycles -- --ignored --nocapture

# One seed again, with its event trace.
trace seed *args:
    cargo run --release -p dispatch-sim -- run --seed {{seed}} --trace {{args}}

# A committed or kept run again, and the promise that it breaks.
repro file:
    cargo run --release -p dispatch-sim -- repro {{file}}

# A failing seed or its recipe, as small as possible.
shrink *args:
    cargo run --release -p dispatch-sim -- shrink {{args}}

# A seed, a recipe or a production journal as one HTML page.
show *args:
    cargo run --release -p dispatch-sim -- show {{args}}

# The planted bugs, each of which an oracle must catch; then the same through the demo.
planted *ids: && (planted-demo "D06") (planted-demo "D12") (planted-demo "D13")
    cargo run -p dispatch-sim --config '{{planted}}' -- planted {{ids}}

# The demo on a server with a planted bug: a check must fail.
planted-demo id:
    #!/usr/bin/env bash
    set -euo pipefail
    seen='{{target}}/planted/demo-{{id}}.txt'
    code=0
    mkdir -p '{{target}}/planted'
    cargo run -p dispatch --config '{{planted}}' -- demo --plant {{id}} >"$seen" || code=$?
    cat "$seen"
    # Exit code 1 alone could also mean that the demo could not be played.
    if [ "$code" -ne 1 ] || ! grep -q '^ *FAIL ' "$seen"; then
        echo "the demo did not catch {{id}}: exit code $code" >&2
        exit 1
    fi

# A fuzz target for so many seconds (needs cargo-fuzz); what it finds gathers in target/corpus.
fuzz name seconds="60":
    mkdir -p {{target}}/corpus/{{name}}
    cd fuzz && cargo fuzz run -s none {{name}} "$(realpath ../{{target}})/corpus/{{name}}" corpus/{{name}} -- -max_total_time={{seconds}} -rss_limit_mb=2048 -timeout=20

# What a target's runs have gathered, without what adds no coverage.
fuzz-min name:
    cd fuzz && cargo fuzz cmin -s none {{name}} "$(realpath ../{{target}})/corpus/{{name}}"

# The figures, measured on this machine.
bench seeds="2000":
    #!/usr/bin/env bash
    set -euo pipefail
    figures='{{target}}/bench-figures'
    mkdir -p "$figures"
    cargo bench -p dispatch-core --bench inputs | tee "$figures/1-core.txt"
    # One thread, so that a second is a core-second.
    cargo run --release -p dispatch-sim -- sweep --seeds {{seeds}} --threads 1 | tee "$figures/sweep.log"
    sed -En 's/.* ([0-9.]+) simulated hours in ([0-9.]+) s .*/\1 \2/p' "$figures/sweep.log" \
        | awk -v seeds={{seeds}} '{ printf "sim: %.0f seeds/s and %.1f simulated hours a core-second, over %d seeds\n", seeds / $2, $1 / $2, seeds }' \
        | tee "$figures/2-sim.txt"
    cargo bench -p dispatch --bench latency | tee "$figures/3-latency.txt"
    cargo bench -p dispatch --bench throughput | tee "$figures/4-throughput.txt"
    cargo bench -p dispatch --bench restart | tee "$figures/5-restart.txt"
    cargo bench -p dispatch --bench ssh | tee "$figures/6-ssh.txt"
    printf '\n== Summary (%s, %s cores) ==\n' "$(uname -m)" "$(nproc)"
    cat "$figures"/*.txt
