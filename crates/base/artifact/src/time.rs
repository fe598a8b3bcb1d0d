//! Times, sizes and counts as people read them.

use std::time::{SystemTime, UNIX_EPOCH};

/// A time in UTC as RFC 3339 writes it: `2001-09-09T01:46:40Z`.
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// The date of a day counted from 1970-01-01, in eras of 400 years that begin on the first of March.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day_of_year - (153 * march_month + 2) / 5 + 1)
}

/// A number of bytes for people: `1.1 MB`.
pub fn human_bytes(bytes: f64) -> String {
    scaled(bytes, &[" B", " kB", " MB", " GB", " TB", " PB"])
}

/// A count for people: `3.2M`.
pub fn human_count(count: f64) -> String {
    scaled(count, &["", "k", "M", "G", "T", "P", "E", "Z", "Y"])
}

fn scaled(value: f64, units: &[&str]) -> String {
    let (mut value, mut unit) = (value, 0);
    while value >= 999.5 && unit + 1 < units.len() {
        (value, unit) = (value / 1000.0, unit + 1);
    }
    let digits = if unit == 0 || value >= 99.95 { 0 } else { 1 };
    format!("{value:.digits$}{}", units[unit])
}

/// A duration for people: `0.4 s`, `3 min 12 s`, `2 h 5 min`.
pub fn human_seconds(seconds: f64) -> String {
    match seconds {
        s if s < 9.95 => format!("{s:.1} s"),
        s if s < 59.5 => format!("{s:.0} s"),
        s if s < 3599.5 => format!("{} min {} s", (s.round() / 60.0) as u64, s.round() as u64 % 60),
        s => format!("{} h {} min", (s / 3600.0) as u64, (s as u64 / 60) % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_match_the_calendar() {
        let at = |s| rfc3339(UNIX_EPOCH + Duration::from_secs(s));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_000_000_000), "2001-09-09T01:46:40Z");
        assert_eq!(at(4_107_542_399), "2100-02-28T23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn figures_are_short() {
        assert_eq!([human_bytes(12.0), human_bytes(1_115_394.0), human_bytes(999_999.0)], ["12 B", "1.1 MB", "1.0 MB"]);
        assert_eq!([human_count(850.0), human_count(3_210_000.0)], ["850", "3.2M"]);
        assert_eq!(
            [human_seconds(0.42), human_seconds(192.0), human_seconds(7500.0)],
            ["0.4 s", "3 min 12 s", "2 h 5 min"]
        );
    }
}
