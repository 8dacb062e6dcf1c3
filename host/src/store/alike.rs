//! The operations of a store that are one statement, bound and read the same
//! in both. Macros and no trait: `sql` and the columns of its statements belong
//! to the store that asks, and are those in scope where it is expanded.

/// Methods of [`Tx`](dispatch_core::store::Tx), over `one`, `many`, `number`
/// and `write` of the transaction.
macro_rules! rows_alike {
    () => {
        fn now(&self) -> Timestamp {
            self.now
        }

        fn open_turns_of(&mut self, id: &ConversationId) -> Result<Vec<TurnId>, Fault> {
            self.many(sql::OPEN_TURNS_OF, [name(id.as_str())], |mut row| {
                row.turn_id()
            })
        }

        fn open_turns_in(&mut self, slug: &Slug) -> Result<Vec<TurnId>, Fault> {
            self.many(sql::OPEN_TURNS_IN, [name(slug.as_str())], |mut row| {
                row.turn_id()
            })
        }

        fn owned_by(&mut self, node: &str) -> Result<Vec<TurnId>, Fault> {
            self.many(sql::OWNED_BY, [name(node)], |mut row| row.turn_id())
        }

        fn lapsed(&mut self, now: Timestamp) -> Result<Option<TurnId>, Fault> {
            self.one(sql::LAPSED, [at(now)], |mut row| row.turn_id())
        }

        fn waiters(
            &mut self,
            provider: &ProviderId,
            starred: bool,
            now: Timestamp,
            away: &[Arc<str>],
            limit: usize,
        ) -> Result<Vec<Head>, Fault> {
            let (provider, unstarred) = (name(provider.as_str()), flag(!starred));
            let (limited, away) = (count(limit), cells::names(away));
            let due = [
                provider.clone(),
                unstarred.clone(),
                limited.clone(),
                away.clone(),
            ];
            let newly_due = [provider, unstarred, at(now), limited, away];
            let mut heads = self.many(sql::WAITERS_DUE, due, |mut row| row.head())?;
            heads.extend(self.many(sql::WAITERS_NEWLY_DUE, newly_due, |mut row| row.head())?);
            heads.sort_by_key(|head| (head.key.started_at, head.key.seq));
            heads.truncate(limit);
            Ok(heads)
        }

        fn next_due(
            &mut self,
            provider: &ProviderId,
            now: Timestamp,
        ) -> Result<Option<Timestamp>, Fault> {
            let cells = [name(provider.as_str()), at(now)];
            let due = self.one(sql::NEXT_DUE, cells, |mut row| row.opt_at())?;
            Ok(due.flatten())
        }

        fn streaming(&mut self, provider: &ProviderId) -> Result<u32, Fault> {
            let count = self.number(sql::STREAMING, [name(provider.as_str())])?;
            Ok(u32::try_from(count).unwrap_or(u32::MAX))
        }

        fn releases_after(
            &mut self,
            provider: &ProviderId,
            since: Timestamp,
        ) -> Result<Vec<Timestamp>, Fault> {
            let cells = [name(provider.as_str()), at(since)];
            self.many(sql::RELEASES_AFTER, cells, |mut row| row.at())
        }

        fn next_waiter_seq(&mut self) -> Result<u64, Fault> {
            self.number(sql::NEXT_WAITER_SEQ, [])
        }

        fn providers(&mut self) -> Result<Vec<ProviderId>, Fault> {
            let rows = self.many(sql::PROVIDERS, [], |mut row| row.provider())?;
            Ok(rows.into_iter().map(|row| row.id).collect())
        }

        fn replicas(&mut self) -> Result<Vec<ReplicaRow>, Fault> {
            self.many(sql::REPLICAS, [], |mut row| row.replica())
        }

        fn stranded(&mut self, node: &str) -> Result<Option<TurnId>, Fault> {
            self.one(sql::STRANDED, [name(node)], |mut row| row.turn_id())
        }

        fn key(&mut self, key: &str) -> Result<Option<KeyRow>, Fault> {
            self.one(sql::KEY, [text(key)], |mut row| row.key_row())
        }

        fn put_key(&mut self, key: &str, row: &KeyRow) -> Result<(), Fault> {
            self.write(sql::PUT_KEY, cells::key(key, row))?;
            Ok(())
        }

        fn terminal_event(&mut self, turn: TurnId) -> Result<Option<AgentEvent>, Fault> {
            self.one(sql::TERMINAL_EVENT, [cells::turn_id(turn)], |mut row| {
                row.event_or_stand_in()
            })
        }

        fn start_seq(&mut self, turn: TurnId) -> Result<Option<u64>, Fault> {
            self.one(sql::START_SEQ, [cells::turn_id(turn)], |mut row| {
                row.ordered()
            })
        }

        fn misfits(&mut self, limit: usize) -> Result<Vec<TurnId>, Fault> {
            self.many(sql::MISFITS, [count(limit)], |mut row| row.turn_id())
        }

        fn put_item(&mut self, row: &ItemRow) -> Result<(), Fault> {
            self.write(sql::PUT_ITEM, cells::item(row)?)?;
            Ok(())
        }

        fn items(&mut self, id: &ConversationId, up_to: u64) -> Result<Transcript, Fault> {
            let cells = [name(id.as_str()), ordered(up_to)];
            match self.many(sql::ITEMS, cells, |mut row| row.item()) {
                Ok(rows) => Ok(Ok(rows)),
                Err(damage @ Fault::Payload { .. }) => Ok(Err(Unreadable(damage.to_string()))),
                Err(fault) => Err(fault),
            }
        }

        fn put_call(&mut self, row: &CallRow) -> Result<(), Fault> {
            self.write(sql::PUT_CALL, cells::call(row))?;
            Ok(())
        }

        fn put_segment(&mut self, segment: &Segment) -> Result<(), Fault> {
            self.write(sql::PUT_SEGMENT, cells::segment(segment))?;
            Ok(())
        }

        fn segments(&mut self, turn: TurnId) -> Result<Vec<Segment>, Fault> {
            self.many(sql::SEGMENTS, [cells::turn_id(turn)], |mut row| {
                row.segment()
            })
        }

        fn drop_segments(&mut self, turn: TurnId) -> Result<(), Fault> {
            self.write(sql::DROP_SEGMENTS, [cells::turn_id(turn)])?;
            Ok(())
        }

        fn endpoints(&mut self) -> Result<Vec<EndpointRow>, Fault> {
            self.many(sql::ENDPOINTS, [], |mut row| row.endpoint())
        }

        fn put_endpoint(&mut self, row: &EndpointRow) -> Result<(), Fault> {
            self.write(sql::PUT_ENDPOINT, cells::endpoint(row))?;
            Ok(())
        }

        fn drop_endpoint(&mut self, id: &EndpointId) -> Result<(), Fault> {
            self.write(sql::DROP_ENDPOINT, [name(id.as_str())])?;
            Ok(())
        }

        fn put_delivery(&mut self, row: &DeliveryRow) -> Result<(), Fault> {
            self.write(sql::PUT_DELIVERY, cells::delivery(row))?;
            Ok(())
        }

        fn due_deliveries(
            &mut self,
            endpoint: &EndpointId,
            now: Timestamp,
            limit: usize,
        ) -> Result<Vec<DeliveryRow>, Fault> {
            let cells = [name(endpoint.as_str()), at(now), count(limit)];
            self.many(sql::DUE_DELIVERIES, cells, |mut row| row.delivery())
        }

        fn next_delivery_due(
            &mut self,
            endpoint: &EndpointId,
            now: Timestamp,
        ) -> Result<Option<Timestamp>, Fault> {
            let cells = [name(endpoint.as_str()), at(now)];
            let due = self.one(sql::NEXT_DELIVERY_DUE, cells, |mut row| row.opt_at())?;
            Ok(due.flatten())
        }

        fn taken_deliveries(&mut self, node: &str) -> Result<Vec<DeliveryRow>, Fault> {
            self.many(sql::TAKEN_DELIVERIES, [name(node)], |mut row| {
                row.delivery()
            })
        }

        fn forget_deliveries(&mut self, now: Timestamp, limit: usize) -> Result<(), Fault> {
            self.write(sql::FORGET_DELIVERIES, [at(now), count(limit)])?;
            Ok(())
        }
    };
}

/// The whole of [`Reads`](super::read::Reads) and [`Tables`](super::dump::Tables).
macro_rules! reads_alike {
    ($tx:ty) => {
        impl Reads for $tx {
            fn events_after(
                &mut self,
                id: &ConversationId,
                after: Seq,
                limit: usize,
            ) -> Result<Vec<AgentEvent>, Fault> {
                let cells = [name(id.as_str()), ordered(after), count(limit)];
                self.many(sql::EVENTS_AFTER, cells, |mut row| row.event_or_stand_in())
            }

            fn open_rows_of(&mut self, id: &ConversationId) -> Result<Vec<TurnRow>, Fault> {
                self.many(sql::OPEN_TURNS_VIEW, [name(id.as_str())], |mut row| {
                    row.turn()
                })
            }

            fn provider_rows(&mut self) -> Result<Vec<ProviderRow>, Fault> {
                self.many(sql::PROVIDERS, [], |mut row| row.provider())
            }

            fn parked(&mut self, row: &ProviderRow) -> Result<u64, Fault> {
                self.number(sql::PARKED, [name(row.id.as_str())])
            }

            fn ahead(
                &mut self,
                row: &TurnRow,
                waiting: bool,
                unstarred: bool,
                before: [Cell<'static>; 2],
            ) -> Result<u64, Fault> {
                let [started_at, seq] = before;
                let provider = name(row.provider.as_str());
                let cells = [provider, flag(waiting), flag(unstarred), started_at, seq];
                self.number(sql::AHEAD, cells)
            }
        }

        impl Tables for $tx {
            fn all<T>(
                &mut self,
                select: &'static str,
                read: impl Fn(Columns<'_>) -> Result<T, Fault>,
            ) -> Result<Vec<T>, Fault> {
                self.many(select, [], read)
            }

            fn all_turns(&mut self) -> Result<Vec<TurnRow>, Fault> {
                self.many(sql::DUMP_TURNS, [], |mut row| row.turn())
            }
        }
    };
}

pub(super) use {reads_alike, rows_alike};
