//! What this process has used so far, as the kernel counts it (`proc(5)`).

use std::fs;

/// Peak resident memory in bytes; none where the system does not tell.
pub(crate) fn peak_rss_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Processor time of all threads in seconds, user and system together.
pub(crate) fn cpu_seconds() -> Option<f64> {
    /// Clock ticks per second in `/proc`, fixed by the kernel's interface (`USER_HZ`).
    const TICKS: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything, so fields are counted from behind it; utime and stime are 14 and 15.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks = |nth: usize| fields.split_whitespace().nth(nth)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_what_we_use() {
        assert!(peak_rss_bytes().expect("VmHWM") > 1024 * 1024);
        let before = cpu_seconds().expect("ticks");
        assert!(before >= 0.0 && cpu_seconds().expect("ticks") >= before);
    }
}
