//! Every statement of the store, in one list, so that a test can ask
//! PostgreSQL how it would look each of them up.

macro_rules! statements {
    ($( $(#[$doc:meta])* $name:ident = $sql:expr; )*) => {
        $( $(#[$doc])* pub(super) const $name: &str = $sql; )*
        /// Name and text of each.
        #[cfg(test)]
        pub(super) const ALL: &[(&str, &str)] = &[ $( (stringify!($name), $name) ),* ];
    };
}

macro_rules! turn_columns {
    () => {
        "t.turn, t.conversation, t.ordinal, t.provider, t.model, t.state, t.unstarred, \
         t.started_at, t.seq, t.due_at, t.owner_node, t.owner_boot, t.owner_incarnation, \
         t.lease_until, t.epoch, t.step, t.items, t.restarts_empty, t.restarts_cut, \
         t.retry_attempt, t.retry_sum_ms, t.retry_first_at, t.retry_message, t.retry_code, \
         t.retry_cause, t.resumes, t.abort_by, t.abort_reason, t.abort_at, t.accepted_at, \
         t.since, t.queue_ms, t.backoff_ms, t.model_ms, t.tool_ms, t.input_tokens, \
         t.output_tokens, t.cached_tokens, t.reasoning_tokens, t.bound, t.computer"
    };
}

macro_rules! turn_names {
    () => {
        "waiting, turn, conversation, ordinal, provider, model, state, unstarred, started_at, \
         seq, due_at, owner_node, owner_boot, owner_incarnation, lease_until, epoch, step, items, \
         restarts_empty, restarts_cut, retry_attempt, retry_sum_ms, retry_first_at, \
         retry_message, retry_code, retry_cause, resumes, abort_by, abort_reason, abort_at, \
         accepted_at, since, queue_ms, backoff_ms, model_ms, tool_ms, input_tokens, \
         output_tokens, cached_tokens, reasoning_tokens, bound, computer"
    };
}

macro_rules! forty_two {
    () => {
        "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, \
         $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36, \
         $37, $38, $39, $40, $41, $42"
    };
}

macro_rules! conversation_columns {
    () => {
        "c.id, c.workspace, c.title, c.created_at, c.last_activity_at, c.provider, c.model, \
         c.cwd, c.last_seq, c.turn, c.epoch, c.next_ordinal, c.computer"
    };
}

macro_rules! delivery_columns {
    () => {
        "d.endpoint, d.turn, d.conversation, d.seq, d.tries, d.state, d.owner_node, d.owner_boot, \
         d.owner_incarnation, d.due_at, d.forget_at"
    };
}

statements! {
    NOW = "SELECT (extract(epoch FROM now()) * 1000)::bigint, pg_backend_pid()::bigint";

    CONVERSATION = concat!("SELECT ", conversation_columns!(), " FROM conversations c WHERE c.id = $1");
    CONVERSATION_LOCKED = concat!("SELECT ", conversation_columns!(),
        " FROM conversations c WHERE c.id = $1 FOR NO KEY UPDATE");
    INSERT_CONVERSATION = "INSERT INTO conversations (id, workspace, title, created_at, last_activity_at, \
        provider, model, cwd, last_seq, turn, epoch, next_ordinal, computer) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
    UPDATE_CONVERSATION = "UPDATE conversations SET (id, workspace, title, created_at, last_activity_at, \
        provider, model, cwd, last_seq, turn, epoch, next_ordinal, computer) \
        = ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) WHERE id = $1";

    /// The conversation first: whoever locks both, locks in that order.
    TURN_LOCKED = concat!("SELECT ", turn_columns!(), ", ", conversation_columns!(),
        " FROM turns t JOIN conversations c ON c.id = t.conversation WHERE t.turn = $1 \
        FOR NO KEY UPDATE OF c, t");
    TURN = concat!("SELECT ", turn_columns!(), ", ", conversation_columns!(),
        " FROM turns t JOIN conversations c ON c.id = t.conversation WHERE t.turn = $1");
    TURNS_LOCKED = concat!("SELECT ", turn_columns!(), ", ", conversation_columns!(),
        " FROM turns t JOIN conversations c ON c.id = t.conversation WHERE t.turn = ANY($1) \
        ORDER BY t.turn FOR NO KEY UPDATE OF c, t");
    TURNS = concat!("SELECT ", turn_columns!(), ", ", conversation_columns!(),
        " FROM turns t JOIN conversations c ON c.id = t.conversation WHERE t.turn = ANY($1)");
    INSERT_TURN = concat!("INSERT INTO turns (", turn_names!(), ") VALUES (", forty_two!(), ")");
    UPDATE_TURN = concat!("UPDATE turns SET (", turn_names!(), ") = (", forty_two!(), ") WHERE turn = $2");
    OPEN_TURNS_OF = "SELECT turn FROM turns WHERE conversation = $1 AND state <> 4 ORDER BY ordinal";
    OPEN_TURNS_IN = "SELECT t.turn FROM turns t JOIN conversations c ON c.id = t.conversation \
        WHERE t.state <> 4 AND c.workspace = $1 ORDER BY t.turn";
    OWNED_BY = "SELECT turn FROM turns WHERE state IN (2, 3) AND owner_node = $1 ORDER BY turn";
    /// One that nobody holds: a writer that has it now is alive.
    LAPSED = "SELECT t.turn FROM turns t JOIN conversations c ON c.id = t.conversation \
        WHERE t.state IN (2, 3) AND t.lease_until < $1 ORDER BY t.turn LIMIT 1 \
        FOR NO KEY UPDATE OF c, t SKIP LOCKED";

    WAITERS_DUE = "SELECT t.turn, t.unstarred, t.started_at, t.seq, c.epoch, t.bound \
        FROM turns t JOIN conversations c ON c.id = t.conversation \
        WHERE t.state = 1 AND t.provider = $1 AND t.waiting = 0 AND t.unstarred = $2 \
        AND (t.bound IS NULL OR strpos($4, chr(10) || t.bound || chr(10)) = 0) \
        ORDER BY t.started_at, t.seq LIMIT $3";
    /// Those that have become due since somebody last noticed such.
    WAITERS_NEWLY_DUE = "SELECT t.turn, t.unstarred, t.started_at, t.seq, c.epoch, t.bound \
        FROM turns t JOIN conversations c ON c.id = t.conversation \
        WHERE t.state = 1 AND t.waiting = 1 AND t.provider = $1 AND t.due_at <= $3 AND t.unstarred = $2 \
        AND (t.bound IS NULL OR strpos($5, chr(10) || t.bound || chr(10)) = 0) \
        ORDER BY t.started_at, t.seq LIMIT $4";
    NOTICE_DUE = "UPDATE turns SET waiting = 0 WHERE turn IN (SELECT turn FROM turns \
        WHERE state = 1 AND waiting = 1 AND due_at <= $1 LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED)";
    NEXT_DUE = "SELECT MIN(due_at) FROM turns WHERE state = 1 AND waiting = 1 AND provider = $1 AND due_at > $2";
    STREAMING = "SELECT COUNT(*) FROM turns WHERE state = 2 AND provider = $1";
    PARKED = "SELECT COUNT(*) FROM turns WHERE state = 1 AND provider = $1";
    /// Run for both values of `waiting` and both sides of the star.
    AHEAD = "SELECT COUNT(*) FROM turns WHERE state = 1 AND provider = $1 \
        AND waiting = $2 AND unstarred = $3 AND (started_at, seq) < ($4, $5)";

    FORGET_RELEASES = "DELETE FROM releases WHERE ctid = ANY(ARRAY(SELECT ctid FROM releases \
        WHERE at < $1 ORDER BY at LIMIT 1024 FOR UPDATE SKIP LOCKED))";
    PUT_RELEASE = "INSERT INTO releases (provider, at) VALUES ($1, $2)";
    RELEASES_AFTER = "SELECT at FROM releases WHERE provider = $1 AND at > $2 ORDER BY at";
    NEXT_WAITER_SEQ = "SELECT nextval('waiter_seq')";

    PROVIDER = "SELECT id, version, stream_limit, configured_limit, cooldown_ms, fair \
        FROM providers WHERE id = $1";
    PROVIDER_LOCKED = "SELECT id, version, stream_limit, configured_limit, cooldown_ms, fair \
        FROM providers WHERE id = $1 FOR NO KEY UPDATE";
    INSERT_PROVIDER = "INSERT INTO providers (id, version, stream_limit, configured_limit, cooldown_ms, fair) \
        VALUES ($1, $2, $3, $4, $5, $6)";
    UPDATE_PROVIDER = "UPDATE providers SET (id, version, stream_limit, configured_limit, cooldown_ms, fair) \
        = ($1, $2, $3, $4, $5, $6) WHERE id = $1";
    REPLICA = "SELECT node, boot, incarnation, version, started_at, seen_at, serving, life \
        FROM replicas WHERE node = $1";
    REPLICA_LOCKED = "SELECT node, boot, incarnation, version, started_at, seen_at, serving, life \
        FROM replicas WHERE node = $1 FOR NO KEY UPDATE";
    /// Two first lives at once: the second to come fails, and then finds the other.
    INSERT_REPLICA = "INSERT INTO replicas (node, boot, incarnation, version, started_at, seen_at, serving, life) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    UPDATE_REPLICA = "UPDATE replicas SET (node, boot, incarnation, version, started_at, seen_at, serving, life) \
        = ($1, $2, $3, $4, $5, $6, $7, $8) WHERE node = $1";
    STRANDED = "SELECT turn FROM turns WHERE state = 1 AND bound IS NOT NULL AND bound = $1 \
        ORDER BY turn LIMIT 1";
    WORKSPACE = "SELECT slug, title, starred, cwd, created_at, computer FROM workspaces WHERE slug = $1";
    WORKSPACE_SHARED = "SELECT slug, title, starred, cwd, created_at, computer FROM workspaces WHERE slug = $1 FOR SHARE";
    WORKSPACE_LOCKED = "SELECT slug, title, starred, cwd, created_at, computer FROM workspaces WHERE slug = $1 \
        FOR NO KEY UPDATE";
    /// Before its conversation: a star locks the workspace first, and then what is in it.
    WORKSPACE_OF_ACCEPT = "SELECT slug FROM workspaces WHERE slug = \
        COALESCE((SELECT workspace FROM conversations WHERE id = $1), $2) FOR SHARE";
    INSERT_WORKSPACE = "INSERT INTO workspaces (slug, title, starred, cwd, created_at, computer) \
        VALUES ($1, $2, $3, $4, $5, $6)";
    UPDATE_WORKSPACE = "UPDATE workspaces SET (slug, title, starred, cwd, created_at, computer) \
        = ($1, $2, $3, $4, $5, $6) WHERE slug = $1";
    KEY = "SELECT digest, turn FROM keys WHERE key = $1";
    /// A second holder of the same key fails, and is then told of the first.
    PUT_KEY = "INSERT INTO keys (key, digest, turn) VALUES ($1, $2, $3)";

    PUT_EVENT = "INSERT INTO events (conversation, seq, turn, kind, terminal, json) \
        VALUES ($1, $2, $3, $4, $5, $6)";
    TERMINAL_EVENT = "SELECT json, conversation, seq, turn, terminal FROM events WHERE terminal = 1 AND turn = $1";
    START_SEQ = "SELECT seq FROM events WHERE kind = 'turn-start' AND turn = $1";
    EVENTS_AFTER = "SELECT json, conversation, seq, turn, terminal FROM events \
        WHERE conversation = $1 AND seq > $2 ORDER BY seq LIMIT $3";

    HEADS = "SELECT id, last_seq, turn FROM conversations WHERE id = ANY($1)";

    INSTALLATION = "SELECT installation::text FROM meta";

    PUT_MARKER = "INSERT INTO markers (turn) VALUES ($1) ON CONFLICT DO NOTHING";
    /// Walks the open turns and the markers, which O5 bounds, once an hour.
    MISFITS = "SELECT t.turn FROM turns t WHERE t.state <> 4 \
        AND NOT EXISTS (SELECT 1 FROM markers m WHERE m.turn = t.turn) \
        UNION ALL SELECT m.turn FROM markers m \
        WHERE NOT EXISTS (SELECT 1 FROM turns t WHERE t.turn = m.turn AND t.state <> 4) \
        ORDER BY 1 LIMIT $1";
    TAKE_MARKER = "DELETE FROM markers WHERE turn = $1";

    PUT_ITEM = "INSERT INTO items (conversation, ordinal, n, turn, item) VALUES ($1, $2, $3, $4, $5)";
    ITEMS = "SELECT conversation, ordinal, n, turn, item FROM items WHERE conversation = $1 \
        AND ordinal <= $2 ORDER BY ordinal, n";
    PUT_CALL = "INSERT INTO calls (turn, step, n, call_id, name, input, state, started_epoch) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (turn, step, n) \
        DO UPDATE SET state = excluded.state, started_epoch = excluded.started_epoch";
    CALLS = "SELECT turn, step, n, call_id, name, input, state, started_epoch FROM calls \
        WHERE turn = $1 AND step = $2 ORDER BY n";
    PUT_SEGMENT = "INSERT INTO segments (turn, epoch, step, text_offset, text, reasoning_offset, reasoning) \
        VALUES ($1, $2, $3, $4, $5, $6, $7)";
    SEGMENTS = "SELECT turn, epoch, step, text_offset, text, reasoning_offset, reasoning FROM segments \
        WHERE turn = $1 ORDER BY n";
    DROP_SEGMENTS = "DELETE FROM segments WHERE turn = $1";

    DELIVERY_LOCKED = concat!("SELECT ", delivery_columns!(), " FROM outbox d \
        WHERE d.endpoint = $1 AND d.turn = $2 FOR NO KEY UPDATE");
    PUT_DELIVERY = "INSERT INTO outbox (endpoint, turn, conversation, seq, tries, state, holds, owner_node, \
        owner_boot, owner_incarnation, due_at, forget_at) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (endpoint, turn) \
        DO UPDATE SET tries = excluded.tries, state = excluded.state, holds = excluded.holds, \
        owner_node = excluded.owner_node, owner_boot = excluded.owner_boot, \
        owner_incarnation = excluded.owner_incarnation, due_at = excluded.due_at, \
        forget_at = excluded.forget_at";
    /// Who waits here for another replica finds that it was second, and is repeated.
    DUE_DELIVERIES = concat!("SELECT ", delivery_columns!(), " FROM outbox d \
        WHERE d.state = 0 AND d.endpoint = $1 AND d.due_at <= $2 \
        AND NOT EXISTS (SELECT 1 FROM outbox e WHERE e.holds = 1 \
        AND e.endpoint = $1 AND e.conversation = d.conversation AND e.seq < d.seq) \
        ORDER BY d.due_at, d.conversation, d.seq LIMIT $3 FOR NO KEY UPDATE OF d");
    NEXT_DELIVERY_DUE = "SELECT MIN(due_at) FROM outbox WHERE state = 0 AND endpoint = $1 AND due_at > $2";
    TAKEN_DELIVERIES = concat!("SELECT ", delivery_columns!(), " FROM outbox d \
        WHERE d.state = 0 AND d.owner_node = $1 ORDER BY d.endpoint, d.turn");
    FORGET_DELIVERIES = "DELETE FROM outbox WHERE ctid = ANY(ARRAY(SELECT ctid FROM outbox \
        WHERE forget_at <= $1 ORDER BY forget_at, endpoint, turn LIMIT $2 FOR UPDATE SKIP LOCKED))";
    PUT_ENDPOINT = "INSERT INTO endpoints (id, wanted) VALUES ($1, $2) ON CONFLICT (id) \
        DO UPDATE SET wanted = excluded.wanted";
    DROP_ENDPOINT = "DELETE FROM endpoints WHERE id = $1";

    OPEN_TURNS_VIEW = concat!("SELECT ", turn_columns!(), " FROM turns t WHERE t.conversation = $1 \
        AND t.state <> 4 ORDER BY t.ordinal");
}

/// Counted anew once a second.
pub(super) const COUNT_MARKERS: &str = "SELECT COUNT(*) FROM markers";
/// As many rows as providers were ever configured.
pub(super) const PROVIDERS: &str = "SELECT id, version, stream_limit, configured_limit, cooldown_ms, fair \
    FROM providers ORDER BY id";
/// As many rows as replicas there ever were.
pub(super) const REPLICAS: &str = "SELECT node, boot, incarnation, version, started_at, seen_at, serving, life \
    FROM replicas ORDER BY node";
/// As many rows as endpoints are configured.
pub(super) const ENDPOINTS: &str = "SELECT id, wanted FROM endpoints ORDER BY id";
/// Everything, for comparisons and inspection only.
pub(super) const DUMP_TURNS: &str = concat!("SELECT ", turn_columns!(), " FROM turns t");

/// What a store would read by that makes this mistake.
#[cfg(planted)]
pub(super) fn spoilt(sql: &'static str, flaw: Option<super::Flaw>) -> &'static str {
    const TURN_ALONE: &str = concat!(
        "SELECT ",
        turn_columns!(),
        ", ",
        conversation_columns!(),
        " FROM turns t JOIN conversations c ON c.id = t.conversation WHERE t.turn = $1 \
        FOR NO KEY UPDATE OF t"
    );
    const TURNS_ALONE: &str = concat!(
        "SELECT ",
        turn_columns!(),
        ", ",
        conversation_columns!(),
        " FROM turns t JOIN conversations c ON c.id = t.conversation WHERE t.turn = ANY($1) \
        ORDER BY t.turn FOR NO KEY UPDATE OF t"
    );
    use super::Flaw::{FenceNotHeld, NoLocks};
    match (flaw, sql) {
        (Some(_), CONVERSATION_LOCKED) => CONVERSATION,
        (Some(NoLocks), TURN_LOCKED) => TURN,
        (Some(NoLocks), TURNS_LOCKED) => TURNS,
        (Some(FenceNotHeld), TURN_LOCKED) => TURN_ALONE,
        (Some(FenceNotHeld), TURNS_LOCKED) => TURNS_ALONE,
        (_, sql) => sql,
    }
}
