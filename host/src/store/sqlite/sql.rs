//! Every statement of the store, in one list, so that a test can ask SQLite
//! how it would look each of them up.

macro_rules! statements {
    ($( $(#[$doc:meta])* $name:ident = $sql:expr; )*) => {
        $( $(#[$doc])* pub(super) const $name: &str = $sql; )*
        /// Name and text of each.
        #[cfg(test)]
        pub(super) const ALL: &[(&str, &str)] = &[ $( (stringify!($name), $name) ),* ];
    };
}

macro_rules! turn_columns {
    ($prefix:literal) => {
        concat!(
            $prefix,
            "turn, ",
            $prefix,
            "conversation, ",
            $prefix,
            "ordinal, ",
            $prefix,
            "provider, ",
            $prefix,
            "model, ",
            $prefix,
            "state, ",
            $prefix,
            "unstarred, ",
            $prefix,
            "started_at, ",
            $prefix,
            "seq, ",
            $prefix,
            "due_at, ",
            $prefix,
            "owner_node, ",
            $prefix,
            "owner_boot, ",
            $prefix,
            "owner_incarnation, ",
            $prefix,
            "lease_until, ",
            $prefix,
            "epoch, ",
            $prefix,
            "step, ",
            $prefix,
            "items, ",
            $prefix,
            "restarts_empty, ",
            $prefix,
            "restarts_cut, ",
            $prefix,
            "retry_attempt, ",
            $prefix,
            "retry_sum_ms, ",
            $prefix,
            "retry_first_at, ",
            $prefix,
            "retry_message, ",
            $prefix,
            "retry_code, ",
            $prefix,
            "retry_cause, ",
            $prefix,
            "resumes, ",
            $prefix,
            "abort_by, ",
            $prefix,
            "abort_reason, ",
            $prefix,
            "abort_at, ",
            $prefix,
            "accepted_at, ",
            $prefix,
            "since, ",
            $prefix,
            "queue_ms, ",
            $prefix,
            "backoff_ms, ",
            $prefix,
            "model_ms, ",
            $prefix,
            "tool_ms, ",
            $prefix,
            "input_tokens, ",
            $prefix,
            "output_tokens, ",
            $prefix,
            "cached_tokens, ",
            $prefix,
            "reasoning_tokens, ",
            $prefix,
            "bound, ",
            $prefix,
            "computer"
        )
    };
}

macro_rules! delivery_columns {
    () => {
        "d.endpoint, d.turn, d.conversation, d.seq, d.tries, d.state, d.owner_node, d.owner_boot, \
         d.owner_incarnation, d.due_at, d.forget_at"
    };
}

statements! {
    CONVERSATION = "SELECT id, workspace, title, created_at, last_activity_at, provider, model, cwd, \
        last_seq, turn, epoch, next_ordinal, computer FROM conversations WHERE id = ?1";
    PUT_CONVERSATION = "REPLACE INTO conversations (id, workspace, title, created_at, last_activity_at, \
        provider, model, cwd, last_seq, turn, epoch, next_ordinal, computer) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";

    TURN = concat!("SELECT ", turn_columns!(""), " FROM turns WHERE turn = ?1");
    PUT_TURN = concat!("REPLACE INTO turns (waiting, ", turn_columns!(""), ") VALUES (?1, ?2, ?3, ?4, ?5, \
        ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, \
        ?26, ?27, ?28, ?29, ?30, ?31, ?32, ?33, ?34, ?35, ?36, ?37, ?38, ?39, ?40, ?41, ?42)");
    OPEN_TURNS_OF = "SELECT turn FROM turns WHERE conversation = ?1 AND state <> 4 ORDER BY ordinal";
    /// Walks the open turns, which O5 bounds, not the conversations, which nothing does.
    OPEN_TURNS_IN = "SELECT t.turn FROM turns t INDEXED BY turns_open CROSS JOIN conversations c \
        ON c.id = t.conversation WHERE t.state <> 4 AND c.workspace = ?1 ORDER BY t.turn";
    OWNED_BY = "SELECT turn FROM turns WHERE state IN (2, 3) AND owner_node = ?1 ORDER BY turn";
    LAPSED = "SELECT turn FROM turns INDEXED BY turns_leased WHERE state IN (2, 3) AND lease_until < ?1 \
        ORDER BY turn LIMIT 1";

    /// Those that are known to be due, in their order.
    WAITERS_DUE = "SELECT t.turn, t.unstarred, t.started_at, t.seq, c.epoch, t.bound \
        FROM turns t INDEXED BY turns_line CROSS JOIN conversations c ON c.id = t.conversation \
        WHERE t.state = 1 AND t.provider = ?1 AND t.waiting = 0 AND t.unstarred = ?2 \
        AND (t.bound IS NULL OR instr(?4, char(10) || t.bound || char(10)) = 0) \
        ORDER BY t.started_at, t.seq LIMIT ?3";
    /// Those that have become due since the last write noticed such.
    WAITERS_NEWLY_DUE = "SELECT t.turn, t.unstarred, t.started_at, t.seq, c.epoch, t.bound \
        FROM turns t INDEXED BY turns_waiting CROSS JOIN conversations c ON c.id = t.conversation \
        WHERE t.state = 1 AND t.waiting = 1 AND t.provider = ?1 AND t.due_at <= ?3 AND t.unstarred = ?2 \
        AND (t.bound IS NULL OR instr(?5, char(10) || t.bound || char(10)) = 0) \
        ORDER BY t.started_at, t.seq LIMIT ?4";
    NOTICE_DUE = "UPDATE turns SET waiting = 0 WHERE turn IN (SELECT turn FROM turns \
        INDEXED BY turns_due WHERE state = 1 AND waiting = 1 AND due_at <= ?1 LIMIT ?2)";
    NEXT_DUE = "SELECT MIN(due_at) FROM turns INDEXED BY turns_waiting \
        WHERE state = 1 AND waiting = 1 AND provider = ?1 AND due_at > ?2";
    STREAMING = "SELECT COUNT(*) FROM turns INDEXED BY turns_streaming WHERE state = 2 AND provider = ?1";
    PARKED = "SELECT COUNT(*) FROM turns INDEXED BY turns_line WHERE state = 1 AND provider = ?1";
    /// Run for both values of `waiting` and both sides of the star.
    AHEAD = "SELECT COUNT(*) FROM turns INDEXED BY turns_line WHERE state = 1 AND provider = ?1 \
        AND waiting = ?2 AND unstarred = ?3 AND (started_at, seq) < (?4, ?5)";

    FORGET_RELEASES = "DELETE FROM releases WHERE provider = ?1 AND at < ?2";
    PUT_RELEASE = "INSERT INTO releases (provider, at) VALUES (?1, ?2)";
    RELEASES_AFTER = "SELECT at FROM releases WHERE provider = ?1 AND at > ?2 ORDER BY at";
    NEXT_WAITER_SEQ = "UPDATE meta SET waiter_seq = waiter_seq + 1 WHERE id = 1 RETURNING waiter_seq";
    STORE_TIME = "SELECT store_time FROM meta WHERE id = 1";
    PUT_STORE_TIME = "UPDATE meta SET store_time = MAX(store_time, ?1) WHERE id = 1";

    PROVIDER = "SELECT id, version, stream_limit, configured_limit, cooldown_ms, fair \
        FROM providers WHERE id = ?1";
    PUT_PROVIDER = "REPLACE INTO providers (id, version, stream_limit, configured_limit, cooldown_ms, fair) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    REPLICA = "SELECT node, boot, incarnation, version, started_at, seen_at, serving, life \
        FROM replicas WHERE node = ?1";
    PUT_REPLICA = "REPLACE INTO replicas (node, boot, incarnation, version, started_at, seen_at, serving, life) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    STRANDED = "SELECT turn FROM turns INDEXED BY turns_bound \
        WHERE state = 1 AND bound IS NOT NULL AND bound = ?1 ORDER BY turn LIMIT 1";
    WORKSPACE = "SELECT slug, title, starred, cwd, created_at, computer FROM workspaces WHERE slug = ?1";
    PUT_WORKSPACE = "REPLACE INTO workspaces (slug, title, starred, cwd, created_at, computer) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    KEY = "SELECT digest, turn FROM keys WHERE key = ?1";
    PUT_KEY = "REPLACE INTO keys (key, digest, turn) VALUES (?1, ?2, ?3)";

    PUT_EVENT = "INSERT INTO events (conversation, seq, turn, kind, terminal, json) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    TERMINAL_EVENT = "SELECT json, conversation, seq, turn, terminal FROM events INDEXED BY events_terminal \
        WHERE terminal = 1 AND turn = ?1";
    START_SEQ = "SELECT seq FROM events INDEXED BY events_start WHERE kind = 'turn-start' AND turn = ?1";
    EVENTS_AFTER = "SELECT json, conversation, seq, turn, terminal FROM events WHERE conversation = ?1 AND seq > ?2 \
        ORDER BY seq LIMIT ?3";

    PUT_MARKER = "INSERT OR IGNORE INTO markers (turn) VALUES (?1)";
    /// Walks the open turns and the markers, which O5 bounds, once an hour.
    MISFITS = "SELECT t.turn FROM turns t INDEXED BY turns_open WHERE t.state <> 4 \
        AND NOT EXISTS (SELECT 1 FROM markers m WHERE m.turn = t.turn) \
        UNION ALL SELECT m.turn FROM markers m \
        WHERE NOT EXISTS (SELECT 1 FROM turns t WHERE t.turn = m.turn AND t.state <> 4) \
        ORDER BY 1 LIMIT ?1";
    TAKE_MARKER = "DELETE FROM markers WHERE turn = ?1";

    PUT_ITEM = "REPLACE INTO items (conversation, ordinal, n, turn, item) VALUES (?1, ?2, ?3, ?4, ?5)";
    ITEMS = "SELECT conversation, ordinal, n, turn, item FROM items WHERE conversation = ?1 \
        AND ordinal <= ?2 ORDER BY ordinal, n";
    PUT_CALL = "REPLACE INTO calls (turn, step, n, call_id, name, input, state, started_epoch) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    CALLS = "SELECT turn, step, n, call_id, name, input, state, started_epoch FROM calls \
        WHERE turn = ?1 AND step = ?2 ORDER BY n";
    PUT_SEGMENT = "INSERT INTO segments (turn, epoch, step, text_offset, text, reasoning_offset, reasoning) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    SEGMENTS = "SELECT turn, epoch, step, text_offset, text, reasoning_offset, reasoning FROM segments \
        WHERE turn = ?1 ORDER BY n";
    DROP_SEGMENTS = "DELETE FROM segments WHERE turn = ?1";

    DELIVERY = concat!("SELECT ", delivery_columns!(), " FROM outbox d WHERE d.endpoint = ?1 AND d.turn = ?2");
    PUT_DELIVERY = "REPLACE INTO outbox (endpoint, turn, conversation, seq, tries, state, holds, owner_node, \
        owner_boot, owner_incarnation, due_at, forget_at) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    DUE_DELIVERIES = concat!("SELECT ", delivery_columns!(), " FROM outbox d INDEXED BY outbox_due \
        WHERE d.state = 0 AND d.endpoint = ?1 AND d.due_at <= ?2 \
        AND NOT EXISTS (SELECT 1 FROM outbox e INDEXED BY outbox_holds WHERE e.holds = 1 \
        AND e.endpoint = ?1 AND e.conversation = d.conversation AND e.seq < d.seq) \
        ORDER BY d.due_at, d.conversation, d.seq LIMIT ?3");
    NEXT_DELIVERY_DUE = "SELECT MIN(due_at) FROM outbox INDEXED BY outbox_due \
        WHERE state = 0 AND endpoint = ?1 AND due_at > ?2";
    TAKEN_DELIVERIES = concat!("SELECT ", delivery_columns!(), " FROM outbox d INDEXED BY outbox_taken \
        WHERE d.state = 0 AND d.owner_node = ?1 ORDER BY d.endpoint, d.turn");
    FORGET_DELIVERIES = "DELETE FROM outbox WHERE (endpoint, turn) IN (SELECT endpoint, turn FROM outbox \
        INDEXED BY outbox_old WHERE forget_at <= ?1 ORDER BY forget_at, endpoint, turn LIMIT ?2)";
    PUT_ENDPOINT = "REPLACE INTO endpoints (id, wanted) VALUES (?1, ?2)";
    DROP_ENDPOINT = "DELETE FROM endpoints WHERE id = ?1";

    OPEN_TURNS_VIEW = concat!("SELECT ", turn_columns!(""), " FROM turns WHERE conversation = ?1 \
        AND state <> 4 ORDER BY ordinal");
}

/// Read once at start: the markers are counted in memory from then on.
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
pub(super) const DUMP_TURNS: &str = concat!("SELECT ", turn_columns!(""), " FROM turns");
