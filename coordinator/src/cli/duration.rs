//! Spans of time as people write them: `90s`, `30m`, `24h`, `7d`.

/// Seconds of a span.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("`{text}` is no span of time: write a number and s, m, h or d, like 30m, 24h or 7d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - unit.len_utf8()].trim().parse().map_err(|_| wrong())?;
    number.checked_mul(factor).filter(|s| *s > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_a_number_and_a_unit() {
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("24h"), Ok(86_400));
        assert_eq!(seconds("7d"), Ok(604_800));
        for bad in ["", "h", "10", "0s", "-1h", "1.5h", "1y", "99999999999999999999d", "5µ"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
