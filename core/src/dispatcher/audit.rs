//! The audit (L1): what should be impossible is looked for at the start and
//! every hour, put right, and reported.

use super::{Dispatcher, Stage};
use crate::kit::{Purpose, Wake};
use crate::store::{AUDIT_AT_ONCE, Reply, Verb};

const AN_HOUR_MS: u64 = 3_600_000;

impl Dispatcher {
    pub(super) fn audit(&mut self) {
        let due = self.now.mono + AN_HOUR_MS;
        self.kit.timers.arm(Wake::AuditDue, due);
        if self.stage == Stage::Serving {
            self.ctx().ask(Purpose::Audit, Verb::Audit);
        }
    }

    pub(super) fn audited(&mut self, reply: Reply) {
        let Reply::Audited { armed, taken } = reply else {
            return;
        };
        for turn in &armed {
            let message = alloc::format!("turn {turn} was open and had no marker; it has one now");
            self.kit.trace("audit-repaired", message);
        }
        for turn in &taken {
            let message = alloc::format!("turn {turn} was over and had a marker; it is gone now");
            self.kit.trace("audit-repaired", message);
        }
        if armed.len() + taken.len() >= AUDIT_AT_ONCE {
            self.kit.timers.arm(Wake::AuditDue, self.now.mono + 1_000);
        }
    }
}
