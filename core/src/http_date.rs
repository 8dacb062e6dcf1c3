//! The three date forms of HTTP (RFC 9110, section 5.6.7), for Retry-After.

use alloc::vec::Vec;

use crate::time::Timestamp;

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Reads a date; `None` for anything else, and for years before 1970.
pub fn parse(text: &str) -> Option<Timestamp> {
    let words: Vec<&str> = text
        .split([' ', '-'])
        .filter(|word| !word.is_empty())
        .collect();
    match words[..] {
        // Sun, 06 Nov 1994 08:49:37 GMT, and Sunday, 06-Nov-94 08:49:37 GMT
        [_, day, month, year, time, "GMT"] => at(day, month, year, time),
        // Sun Nov  6 08:49:37 1994
        [_, month, day, time, year] => at(day, month, year, time),
        _ => None,
    }
}

fn at(day: &str, month: &str, year: &str, time: &str) -> Option<Timestamp> {
    let number = |text: &str| -> Option<u64> {
        (text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
    };
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let (day, short_year) = (number(day)?, year.len() == 2);
    let year = number(year)? + if short_year { 2000 } else { 0 };
    let mut parts = time.split(':').map(number);
    let (h, m, s) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() || !(1970..=9999).contains(&year) || h > 23 || m > 59 || s > 60 {
        return None;
    }
    if day == 0 || day > days_in(year, month) {
        return None;
    }
    let seconds = (days_before(year, month) + day - 1) * 86_400 + h * 3_600 + m * 60 + s;
    Some(Timestamp(seconds * 1_000))
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from the epoch to the first of a month.
fn days_before(year: u64, month: u64) -> u64 {
    let leaps = |before: u64| (before - 1) / 4 - (before - 1) / 100 + (before - 1) / 400;
    let years = (year - 1970) * 365 + leaps(year) - leaps(1970);
    years + (1..month).map(|m| days_in(year, m)).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_of_the_rfc_name_the_same_moment() {
        let moment = Some(Timestamp(784_111_777_000));
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), moment);
        assert_eq!(parse("Sun Nov  6 08:49:37 1994"), moment);
        assert_eq!(
            parse("Tuesday, 29-Feb-00 00:00:00 GMT"),
            Some(Timestamp(951_782_400_000))
        );
    }

    #[test]
    fn nonsense_is_not_a_date() {
        for text in [
            "",
            "soon",
            "Sun, 31 Feb 2025 00:00:00 GMT",
            "Sun, 06 Nov 1994 25:00:00 GMT",
            "Sun, 06 Nov 199400000 08:49:37 GMT",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
