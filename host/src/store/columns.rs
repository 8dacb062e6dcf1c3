//! Columns to values, from left to right.

use dispatch_core::admission::{Head, WaiterKey};
use dispatch_core::event::{AgentEvent, EventBody};
use dispatch_core::ids::{ComputerId, ConversationId, Epoch, Owner, ProviderId, Slug, TurnId};
use dispatch_core::store::{
    AbortRequest, CallRow, CallState, ConversationRow, Failure, ItemRow, KeyRow, ProviderRow,
    ReplicaRow, RetryState, Segment, Timing, TurnRow, TurnState, WorkspaceRow,
};
use dispatch_core::time::Timestamp;
use dispatch_core::transcript::Usage;
use dispatch_core::webhook::{Delivery, DeliveryRow, DeliveryState, EndpointRow, Wanted};

use super::cells::{Fault, Row, Value};

/// Reads a row's columns from left to right.
pub(super) struct Columns<'r> {
    row: &'r dyn Row,
    next: usize,
}

impl<'r> Columns<'r> {
    pub(super) fn of(row: &'r dyn Row) -> Columns<'r> {
        Columns { row, next: 0 }
    }

    fn value(&mut self) -> Result<Value<'r>, Fault> {
        let value = self.row.value(self.next)?;
        self.next += 1;
        Ok(value)
    }

    /// About the column read last.
    fn bad(&self, problem: impl Into<String>) -> Fault {
        let last = self.next.saturating_sub(1);
        Fault::Column {
            column: self.row.column(last),
            problem: problem.into(),
        }
    }

    fn opt_i64(&mut self) -> Result<Option<i64>, Fault> {
        match self.value()? {
            Value::Null => Ok(None),
            Value::Int(value) => Ok(Some(value)),
            Value::Bytes(_) | Value::Odd => Err(self.bad("is no integer")),
        }
    }

    fn i64(&mut self) -> Result<i64, Fault> {
        self.opt_i64()?.ok_or_else(|| self.bad("is missing"))
    }

    pub(super) fn ordered(&mut self) -> Result<u64, Fault> {
        Ok(u64::try_from(self.i64()?).unwrap_or(0))
    }

    fn bits(&mut self) -> Result<u64, Fault> {
        Ok(self.i64()?.cast_unsigned())
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        let value = self.i64()?;
        u32::try_from(value).map_err(|_| self.bad(format!("is out of range: {value}")))
    }

    pub(super) fn at(&mut self) -> Result<Timestamp, Fault> {
        self.ordered().map(Timestamp)
    }

    pub(super) fn opt_at(&mut self) -> Result<Option<Timestamp>, Fault> {
        let value = self.opt_i64()?;
        Ok(value.map(|ms| Timestamp(u64::try_from(ms).unwrap_or(0))))
    }

    /// Damaged UTF-8 is shown as such rather than withheld.
    fn opt_text(&mut self) -> Result<Option<String>, Fault> {
        match self.value()? {
            Value::Null => Ok(None),
            Value::Bytes(text) => Ok(Some(String::from_utf8_lossy(text).into_owned())),
            Value::Int(_) | Value::Odd => Err(self.bad("is no text")),
        }
    }

    pub(super) fn text(&mut self) -> Result<String, Fault> {
        self.opt_text()?.ok_or_else(|| self.bad("is missing"))
    }

    pub(super) fn id<I>(&mut self) -> Result<I, Fault>
    where
        I: for<'t> TryFrom<&'t str, Error: std::fmt::Display>,
    {
        let text = self.text()?;
        I::try_from(&text).map_err(|cause| self.bad(format!("is no id: {cause}")))
    }

    pub(super) fn opt_turn(&mut self) -> Result<Option<TurnId>, Fault> {
        match self.value()? {
            Value::Null => Ok(None),
            Value::Bytes(bytes) => match <[u8; 16]>::try_from(bytes) {
                Ok(bytes) => Ok(Some(TurnId(u128::from_be_bytes(bytes)))),
                Err(_) => Err(self.bad("is no turn id")),
            },
            Value::Int(_) | Value::Odd => Err(self.bad("is no turn id")),
        }
    }

    pub(super) fn turn_id(&mut self) -> Result<TurnId, Fault> {
        self.opt_turn()?.ok_or_else(|| self.bad("is missing"))
    }

    fn state(&mut self) -> Result<TurnState, Fault> {
        match self.i64()? {
            0 => Ok(TurnState::Blocked),
            1 => Ok(TurnState::Parked),
            2 => Ok(TurnState::Streaming),
            3 => Ok(TurnState::Tools),
            4 => Ok(TurnState::Ended),
            other => Err(self.bad(format!("is no state of a turn: {other}"))),
        }
    }

    pub(super) fn turn(&mut self) -> Result<TurnRow, Fault> {
        Ok(TurnRow {
            turn: self.turn_id()?,
            conversation: self.id()?,
            ordinal: self.ordered()?,
            provider: self.id()?,
            model: self.text()?,
            state: self.state()?,
            key: self.key()?,
            due_at: self.at()?,
            owner: self.owner()?,
            lease_until: self.at()?,
            epoch: Epoch(self.ordered()?),
            step: self.u32()?,
            items: self.u32()?,
            restarts: dispatch_core::store::Restarts {
                empty: self.u32()?,
                cut: self.u32()?,
            },
            retry: self.retry()?,
            resumes: self.u32()?,
            abort: self.abort()?,
            accepted_at: self.at()?,
            since: self.at()?,
            timing: Timing {
                queue_ms: self.bits()?,
                backoff_ms: self.bits()?,
                model_ms: self.bits()?,
                tool_ms: self.bits()?,
            },
            usage: Usage {
                input_tokens: self.bits()?,
                output_tokens: self.bits()?,
                cached_tokens: self.bits()?,
                reasoning_tokens: self.bits()?,
            },
            bound: self.opt_text()?.map(Into::into),
            computer: self.computer()?,
        })
    }

    fn computer(&mut self) -> Result<Option<ComputerId>, Fault> {
        let Some(text) = self.opt_text()? else {
            return Ok(None);
        };
        let id = ComputerId::try_from(text.as_str());
        id.map(Some)
            .map_err(|bad| self.bad(format!("is no computer: {bad}")))
    }

    fn key(&mut self) -> Result<WaiterKey, Fault> {
        Ok(WaiterKey {
            unstarred: self.i64()? != 0,
            started_at: self.at()?,
            seq: self.ordered()?,
        })
    }

    fn owner(&mut self) -> Result<Option<Owner>, Fault> {
        let (node, boot, incarnation) = (self.opt_text()?, self.opt_i64()?, self.opt_i64()?);
        Ok(node.map(|node| Owner {
            node: node.into(),
            boot: boot.unwrap_or(0).cast_unsigned(),
            incarnation: incarnation.and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        }))
    }

    fn retry(&mut self) -> Result<RetryState, Fault> {
        let (attempt, sum_ms, first_failure_at) = (self.u32()?, self.bits()?, self.opt_at()?);
        let (message, code, cause) = (self.opt_text()?, self.opt_text()?, self.opt_text()?);
        Ok(RetryState {
            attempt,
            sum_ms,
            first_failure_at,
            last: message.map(|message| Failure {
                message,
                code,
                cause: cause.unwrap_or_default(),
            }),
        })
    }

    fn abort(&mut self) -> Result<Option<AbortRequest>, Fault> {
        let (by, reason, at) = (self.opt_text()?, self.opt_text()?, self.opt_at()?);
        Ok(by.map(|by| AbortRequest {
            by,
            reason,
            at: at.unwrap_or_default(),
        }))
    }

    pub(super) fn head(&mut self) -> Result<Head, Fault> {
        Ok(Head {
            turn: self.turn_id()?,
            key: self.key()?,
            epoch: Epoch(self.ordered()?),
            bound: self.opt_text()?.map(Into::into),
        })
    }

    pub(super) fn replica(&mut self) -> Result<ReplicaRow, Fault> {
        Ok(ReplicaRow {
            owner: Owner {
                node: self.text()?.into(),
                boot: self.bits()?,
                incarnation: self.u32()?,
            },
            version: self.text()?,
            started_at: self.at()?,
            seen_at: self.at()?,
            serving: self.i64()? != 0,
            life: self.ordered()?,
        })
    }

    pub(super) fn conversation(&mut self) -> Result<ConversationRow, Fault> {
        Ok(ConversationRow {
            id: self.id()?,
            workspace: self.id()?,
            title: self.text()?,
            created_at: self.at()?,
            last_activity_at: self.at()?,
            provider: self.id()?,
            model: self.text()?,
            cwd: self.opt_text()?,
            last_seq: self.ordered()?,
            turn: self.opt_turn()?,
            epoch: Epoch(self.ordered()?),
            next_ordinal: self.ordered()?,
            computer: self.computer()?,
        })
    }

    pub(super) fn workspace(&mut self) -> Result<WorkspaceRow, Fault> {
        Ok(WorkspaceRow {
            slug: self.id::<Slug>()?,
            title: self.opt_text()?,
            // Absent or odd is false (C3).
            starred: matches!(self.value()?, Value::Int(1)),
            cwd: self.opt_text()?,
            created_at: self.at()?,
            computer: self.computer()?,
        })
    }

    pub(super) fn provider(&mut self) -> Result<ProviderRow, Fault> {
        Ok(ProviderRow {
            id: self.id::<ProviderId>()?,
            version: self.ordered()?,
            limit: self.u32()?,
            configured_limit: self.u32()?,
            cooldown_ms: self.ordered()?,
            fair: self.u32()?,
        })
    }

    pub(super) fn key_row(&mut self) -> Result<KeyRow, Fault> {
        Ok(KeyRow {
            digest: self.bits()?,
            turn: self.turn_id()?,
        })
    }

    pub(super) fn item(&mut self) -> Result<ItemRow, Fault> {
        let (conversation, ordinal) = (self.id::<ConversationId>()?, self.ordered()?);
        let (n, turn, json) = (self.u32()?, self.turn_id()?, self.text()?);
        let item = serde_json::from_str(&json).map_err(|cause| Fault::Payload {
            what: format!("item {n} of turn {turn} in conversation {conversation}"),
            cause: cause.to_string(),
        })?;
        Ok(ItemRow {
            conversation,
            ordinal,
            n,
            turn,
            item,
        })
    }

    pub(super) fn event(&mut self) -> Result<AgentEvent, Fault> {
        let (json, conversation, seq) = (self.text()?, self.text()?, self.ordered()?);
        AgentEvent::from_json(&json).map_err(|cause| Fault::Payload {
            what: format!("event {seq} of conversation {conversation}"),
            cause: cause.to_string(),
        })
    }

    /// An event for a follower: one that cannot be read back must not hide
    /// those around it, so a readable stand-in takes its place in the log.
    pub(super) fn event_or_stand_in(&mut self) -> Result<AgentEvent, Fault> {
        let (json, conversation, seq) = (self.text()?, self.text()?, self.ordered()?);
        let (turn, terminal) = (self.turn_id()?, self.i64()? != 0);
        let cause = match AgentEvent::from_json(&json) {
            Ok(event) => return Ok(event),
            Err(cause) => cause.to_string(),
        };
        tracing::error!(conversation, seq, cause, "an event cannot be read back");
        let code = "unreadable-event".to_owned();
        let message = format!("event {seq} is damaged in the store: {cause}");
        let body = match terminal {
            true => EventBody::Error {
                code,
                message,
                cause: "unreadable-event".to_owned(),
                retryable: false,
            },
            false => EventBody::Warning { code, message },
        };
        let conversation = ConversationId::try_from(conversation.as_str())
            .map_err(|problem| self.bad(problem.to_string()))?;
        Ok(AgentEvent {
            seq: Some(seq),
            conversation,
            turn,
            epoch: Epoch(0),
            at: Timestamp(0),
            body,
        })
    }

    pub(super) fn call(&mut self) -> Result<CallRow, Fault> {
        Ok(CallRow {
            turn: self.turn_id()?,
            step: self.u32()?,
            n: self.u32()?,
            call_id: self.text()?,
            name: self.text()?,
            input: self.text()?,
            state: match (self.i64()?, self.opt_i64()?) {
                (0, _) => CallState::Asked,
                (1, epoch) => CallState::Started(Epoch(epoch.unwrap_or(0).cast_unsigned())),
                (2, _) => CallState::Finished,
                (other, _) => return Err(self.bad(format!("is no state of a call: {other}"))),
            },
        })
    }

    pub(super) fn endpoint(&mut self) -> Result<EndpointRow, Fault> {
        let id = self.id()?;
        let wanted = self.i64()?;
        let wants = |n: u32| wanted & (1 << n) != 0;
        Ok(EndpointRow {
            id,
            wanted: Wanted {
                done: wants(0),
                error: wants(1),
                aborted: wants(2),
            },
        })
    }

    pub(super) fn delivery(&mut self) -> Result<DeliveryRow, Fault> {
        Ok(DeliveryRow {
            delivery: Delivery {
                endpoint: self.id()?,
                turn: self.turn_id()?,
                conversation: self.id()?,
                seq: self.ordered()?,
                tries: self.u32()?,
            },
            state: match self.i64()? {
                0 => DeliveryState::Pending,
                1 => DeliveryState::Delivered,
                2 => DeliveryState::Failed,
                other => return Err(self.bad(format!("is no state of a delivery: {other}"))),
            },
            owner: self.owner()?,
            due_at: self.at()?,
            forget_at: self.at()?,
        })
    }

    pub(super) fn segment(&mut self) -> Result<Segment, Fault> {
        Ok(Segment {
            turn: self.turn_id()?,
            epoch: Epoch(self.ordered()?),
            step: self.u32()?,
            text_offset: self.ordered()?,
            text: self.text()?,
            reasoning_offset: self.ordered()?,
            reasoning: self.text()?,
        })
    }
}
