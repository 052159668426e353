//! Durations as people write them: `30s`, `15m`, `24h`, `30d`. Never guesses a unit.

use std::time::Duration;

/// Reads a whole number with its unit.
///
/// # Errors
/// A sentence for whoever wrote it.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration: write a whole number and s, m, h or d, such as 30d");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(wrong()),
    };
    let number = &text[..text.len() - 1];
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_with_units() {
        for (text, seconds) in [("30s", 30), ("15m", 900), ("24h", 86_400), ("30d", 2_592_000), ("0", 0), ("0s", 0)] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in [
            "",
            "s",
            "30",
            "1w",
            "-1d",
            "+1d",
            "1.5h",
            "1 d",
            "1dd",
            "ä",
            "99999999999999999999d",
            "9999999999999999999d",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
