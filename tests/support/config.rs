//! Configuration files for tests: short waits, otherwise the defaults.

/// One `[providers.NAME]` section.
pub(crate) fn provider(name: &str, base_url: &str, limit: u32) -> String {
    format!(
        "[providers.{name}]\ndialect = \"chat\"\nbase_url = \"{base_url}\"\nlimit = {limit}\ncooldown_ms = {COOLDOWN_MS}\nmodels = [\"m\"]\n"
    )
}

/// Long enough for a provider to see the end of a response before the slot's
/// next request arrives (A4).
pub(crate) const COOLDOWN_MS: u64 = 20;

/// `[retry]`, in seconds.
pub(crate) fn retry(schedule_s: &[u64], budget_s: u64) -> String {
    format!("[retry]\nschedule_s = {schedule_s:?}\nbudget_s = {budget_s}\n")
}
