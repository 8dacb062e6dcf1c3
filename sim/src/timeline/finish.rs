//! From what a [`Builder`] has seen to the columns of a page.

use std::collections::BTreeMap;

use super::model::{Deltas, Events, Field, Kind, LaneKind, Lanes, SpanKind, Spans, Timeline};
use super::strings::{Strings, TITLE_CHARS, cut};
use super::{Builder, MOST_EVENTS};
use crate::clock::Us;

impl Builder {
    /// Nothing more will happen; `end_us` is the last moment.
    pub fn finish(mut self, end_us: Us) -> Timeline {
        self.shrink();
        self.tell_what_is_missing();
        let mut strings = Strings::default();
        let last = self.events.last().map_or(0, |event| event.at);
        let end_us = end_us.max(last);
        let lanes = self.lane_columns(&mut strings);
        let spans = self.span_columns(&mut strings, end_us);
        let base = std::mem::take(&mut self.base);
        let base =
            base.into_iter()
                .fold(Deltas::default(), |mut columns, ((lane, field), value)| {
                    columns.lane.push(lane);
                    columns.field.push(field as u8);
                    columns.value.push(strings.number(&value));
                    columns
                });
        let (events, deltas) = self.event_columns(&mut strings);
        Timeline {
            title: self.title,
            command: self.command,
            epoch_ms: self.epoch_ms,
            end_us,
            violation: self.violation,
            remarks: self.remarks,
            dropped: self.dropped,
            kinds: Kind::names(),
            lane_kinds: LaneKind::names(),
            fields: Field::names(),
            span_kinds: SpanKind::names(),
            strings: strings.into_all(),
            lanes,
            events,
            base,
            deltas,
            spans,
        }
    }

    fn tell_what_is_missing(&mut self) {
        let dropped = self.dropped;
        if dropped.chatter > 0 {
            self.remark(format!(
                "{} looks and pieces of streams are left out: a page holds {MOST_EVENTS} events",
                dropped.chatter
            ));
        }
        if dropped.oldest > 0 {
            self.remark(format!(
                "the first {} events are left out: a page holds {MOST_EVENTS}; the state before the first one shown is theirs",
                dropped.oldest
            ));
        }
    }

    fn lane_columns(&self, strings: &mut Strings) -> Lanes {
        let mut columns = Lanes::default();
        for lane in &self.lanes {
            columns.kind.push(lane.kind as u8);
            columns.label.push(strings.number(&lane.label));
            columns.name.push(strings.number(&lane.name));
            columns
                .about
                .push(strings.number(&cut(&lane.about, TITLE_CHARS)));
        }
        columns
    }

    fn span_columns(&self, strings: &mut Strings, end_us: Us) -> Spans {
        let mut columns = Spans::default();
        for span in &self.spans {
            columns.kind.push(span.kind as u8);
            columns.lane.push(span.lane);
            columns.turn.push(number(span.turn));
            columns.from.push(span.from);
            columns.to.push(span.to.unwrap_or(end_us).max(span.from));
            columns.label.push(strings.number(&span.label));
            let result = match span.to {
                Some(_) => span.result.as_str(),
                None => "open",
            };
            columns.result.push(strings.number(result));
        }
        columns
    }

    fn event_columns(&mut self, strings: &mut Strings) -> (Events, Deltas) {
        let (mut columns, mut deltas) = (Events::default(), Deltas::default());
        let mut places = BTreeMap::new();
        let mut before = 0;
        for (place, event) in self.events.drain(..).enumerate() {
            let place = u32::try_from(place).unwrap_or(u32::MAX);
            places.insert(event.n, place);
            columns.after.push(event.at - before);
            before = event.at;
            columns.kind.push(event.quiet.unwrap_or(event.kind) as u8);
            columns.lane.push(i64::from(event.lane));
            columns.from.push(number(event.from));
            columns.turn.push(number(event.turn));
            let cause = event.cause.and_then(|cause| places.get(&cause));
            columns.cause.push(number(cause.copied()));
            columns.title.push(strings.number(&event.title));
            columns.detail.push(strings.number(&event.detail));
            let wake = event.wake.map(|wake| strings.number(&wake));
            columns.wake.push(number(wake));
            for (lane, field, value) in event.deltas {
                deltas.event.push(place);
                deltas.lane.push(lane);
                deltas.field.push(field as u8);
                deltas.value.push(strings.number(&value));
            }
        }
        (columns, deltas)
    }
}

fn number(value: Option<u32>) -> i64 {
    value.map_or(-1, i64::from)
}
