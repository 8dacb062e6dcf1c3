//! How PostgreSQL looks things up when there is much of everything.

use super::cluster::{Cluster, shared};
use super::{PostgresOptions, PostgresStore, sql};

/// As many open turns, each in a conversation of its own, and ten times as
/// many that have ended.
const FILL: &str = "
SET search_path TO dispatch;
INSERT INTO workspaces SELECT 'w-' || n, NULL, 0, NULL, 0 FROM generate_series(1, 100) n;
INSERT INTO providers SELECT 'p-' || n, 0, 4, 4, 200, 0 FROM generate_series(1, 4) n;
INSERT INTO conversations SELECT 'c-' || n, 'w-' || (n % 100 + 1), '', n, n, 'p-' || (n % 4 + 1),
    '', NULL, 3, NULL, 1, 2 FROM generate_series(1, 100000) n;
INSERT INTO turns (turn, conversation, ordinal, provider, model, state, waiting, unstarred,
    started_at, seq, due_at, lease_until, epoch, step, items, restarts_empty, restarts_cut,
    retry_attempt, retry_sum_ms, resumes, accepted_at, since, queue_ms, backoff_ms, model_ms,
    tool_ms, input_tokens, output_tokens, cached_tokens, reasoning_tokens)
    SELECT decode(lpad(to_hex(n), 32, '0'), 'hex'), 'c-' || (n % 100000 + 1), n / 100000,
    'p-' || (n % 4 + 1), '', CASE WHEN n > 100000 THEN 4 WHEN n > 99900 THEN 2 ELSE 1 END,
    n % 2, 1, n, n, n, 0, 1, 0, 1, 0, 0, 0, 0, 0, n, n, 0, 0, 0, 0, 0, 0, 0, 0
    FROM generate_series(1, 400000) n;
INSERT INTO markers SELECT turn FROM turns WHERE state <> 4;
INSERT INTO events SELECT conversation, ordinal + 1, turn, 'turn-start', 0, '{}' FROM turns;
INSERT INTO items SELECT conversation, ordinal, 0, turn, '{}' FROM turns;
INSERT INTO calls SELECT turn, 0, 0, '', '', '', 2, NULL FROM turns;
INSERT INTO segments (turn, epoch, step, text_offset, text, reasoning_offset, reasoning)
    SELECT turn, 1, 0, 0, '', 0, '' FROM turns WHERE state <> 4;
INSERT INTO keys SELECT turn, 0, turn FROM turns;
INSERT INTO releases SELECT 'p-1', n FROM generate_series(1, 10000) n;
INSERT INTO endpoints SELECT 'e-' || n, 7 FROM generate_series(1, 4) n;
INSERT INTO outbox SELECT 'e-' || (n % 4 + 1), turn, conversation, n, n % 3,
    CASE WHEN n <= 40000 THEN 0 ELSE 1 END, CASE WHEN n <= 30000 THEN 1 ELSE 0 END,
    CASE WHEN n <= 16 THEN 'node-1' END, n, 0, n, n
    FROM (SELECT turn, conversation, row_number() OVER () n FROM turns WHERE state = 4) ended;
ANALYZE;";

/// As many rows as somebody has given names.
const SMALL: [&str; 5] = [
    "on providers",
    "on workspaces",
    "on endpoints",
    "on replicas",
    "on meta",
];

#[test]
fn no_statement_of_a_verb_or_a_read_scans_a_table_at_a_hundred_thousand_open_turns() {
    let Some(cluster) = shared() else { return };
    let url = cluster.database();
    let database = Cluster::name_in(&url);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let options = PostgresOptions::default();
    let store = runtime.block_on(PostgresStore::open(&url, options));
    let store = store.expect("it opens");
    cluster.psql(database, FILL).expect("it is filled");
    let mut seen = 0;
    for (name, text) in sql::ALL {
        let params = (1..=60).take_while(|n| text.contains(&format!("${n}")));
        let nulls = vec!["NULL"; params.count()].join(", ");
        let execute = match nulls.is_empty() {
            true => "EXECUTE q".to_owned(),
            false => format!("EXECUTE q({nulls})"),
        };
        let explain = format!(
            "SET search_path TO dispatch; SET plan_cache_mode = force_generic_plan; \
             PREPARE q AS {text}; EXPLAIN {execute}"
        );
        let plan = cluster.psql(database, &explain).expect(name);
        // A star asks for everything in its workspace, which may be everything;
        // the audit for everything that is open, once an hour.
        if ["OPEN_TURNS_IN", "MISFITS"].contains(name) {
            continue;
        }
        let scans = plan.lines().filter(|line| line.contains("Seq Scan"));
        let large = scans.filter(|line| !SMALL.iter().any(|table| line.contains(table)));
        let large: Vec<&str> = large.collect();
        assert!(large.is_empty(), "{name}: {plan}");
        seen += plan.lines().count();
    }
    assert!(seen > 60, "the plans were read");
    runtime.block_on(crate::store::Store::close(&store));
}
