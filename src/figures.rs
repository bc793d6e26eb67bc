//! Numbers as people read them: grouped digits, sizes, spans of time.

use std::fmt::Write as _;
use std::time::Duration;

/// 1234567 as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A size in the unit that leaves up to four digits.
pub(crate) fn bytes_text(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1_000.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{size:.1} {unit}") };
        }
        size /= 1_024.0;
    }
    format!("{size:.1} TiB")
}

/// A short span of time to a tenth of a second, a long one as [`duration_text`].
pub(crate) fn ms_text(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => duration_text(Duration::from_millis(ms)),
    }
}

/// The two largest units.
pub(crate) fn duration_text(duration: Duration) -> String {
    let (minutes, seconds) = (duration.as_secs() / 60, duration.as_secs() % 60);
    let (hours, days) = (minutes / 60, minutes / (24 * 60));
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {seconds}s"),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

/// Columns as wide as they must be; the first to the left, the others to the right, then an empty line.
pub(crate) fn align(out: &mut String, header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let mut lines = vec![header.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()];
    lines.extend(rows);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    for line in &lines {
        for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(out, "{cell:<width$}"),
                _ => write!(out, "  {cell:>width$}"),
            };
        }
        out.push('\n');
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!((grouped(999), grouped(1_234_567)), ("999".into(), "1,234,567".into()));
        assert_eq!((bytes_text(999), bytes_text(1_000)), ("999 B".into(), "1.0 KiB".into()));
        assert_eq!(bytes_text(5 << 40), "5.0 TiB");
        assert_eq!((ms_text(999), ms_text(4_210), ms_text(61_000)), ("999 ms".into(), "4.2 s".into(), "1m 1s".into()));
        assert_eq!(duration_text(Duration::from_secs(90_000)), "1d 1h");
    }
}
