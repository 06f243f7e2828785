//! Numbers for narrow columns.

/// Three digits and a unit's prefix: 1234 is `1.23k`.
pub(super) fn short(number: f64) -> String {
    let mut number = number.max(0.0);
    let mut prefix = "";
    for next in ["k", "M", "G", "T", "P"] {
        if number < 999.5 {
            break;
        }
        number /= 1000.0;
        prefix = next;
    }
    let digits = match number {
        n if prefix.is_empty() && n.fract() == 0.0 => 0,
        n if n < 9.995 => 2,
        n if n < 99.95 => 1,
        _ => 0,
    };
    format!("{number:.digits$}{prefix}")
}

/// Seconds as days, hours and minutes.
pub(super) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        for (number, text) in [
            (0.0, "0"),
            (7.0, "7"),
            (0.25, "0.25"),
            (12.34, "12.3"),
            (999.0, "999"),
            (999.9, "1.00k"),
            (1234.0, "1.23k"),
            (98_765.0, "98.8k"),
            (1e6, "1.00M"),
            (2.5e13, "25.0T"),
        ] {
            assert_eq!(short(number), text);
        }
        assert_eq!(duration(59), "59 s");
        assert_eq!(duration(3660), "1 h 1 min");
        assert_eq!(duration(90_000), "1 d 1 h");
    }
}
