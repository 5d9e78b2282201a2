//! The little that is needed of an X.509 certificate (RFC 5280): its DNS names and until when it holds.
//!
//! A bounded walk over DER; it verifies nothing. What it cannot read it answers with nothing. Gateways and the
//! coordinator read the certificates that they ordered by it.

use std::time::Duration;

/// The DNS names in the subject alternative name extension, as written.
pub fn dns_names(certificate: &[u8]) -> Vec<String> {
    names(certificate).unwrap_or_default()
}

/// The times since 1970 from and until which the certificate holds.
pub fn validity(certificate: &[u8]) -> Option<(Duration, Duration)> {
    let mut fields = fields(certificate)?;
    // Serial number, signature algorithm, issuer, validity.
    let (0x30, validity) = fields.nth(3)? else { return None };
    let mut times = Der(validity);
    let ((first, from), (second, until)) = (times.next()?, times.next()?);
    Some((time(first, from)?, time(second, until)?))
}

/// The time since 1970 at which the certificate ends.
pub fn not_after(certificate: &[u8]) -> Option<Duration> {
    validity(certificate).map(|(_, until)| until)
}

/// The fields of the part that is signed, without the version.
fn fields(certificate: &[u8]) -> Option<std::iter::Skip<Der<'_>>> {
    let (0x30, whole) = Der(certificate).next()? else { return None };
    let (0x30, signed) = Der(whole).next()? else { return None };
    let has_version = signed.first() == Some(&0xa0);
    Some(Der(signed).skip(usize::from(has_version)))
}

fn names(certificate: &[u8]) -> Option<Vec<String>> {
    const SUBJECT_ALT_NAME: [u8; 3] = [0x55, 0x1d, 0x11];
    let (_, wrapped) = fields(certificate)?.find(|(tag, _)| *tag == 0xa3)?;
    let (_, list) = Der(wrapped).next()?;
    let value = Der(list).find_map(|(_, extension)| {
        let mut parts = Der(extension);
        let (6, oid) = parts.next()? else { return None };
        (oid == SUBJECT_ALT_NAME).then(|| parts.last()).flatten()
    })?;
    let (_, names) = Der(value.1).next()?;
    let texts =
        Der(names).filter(|(tag, _)| *tag == 0x82).filter_map(|(_, name)| std::str::from_utf8(name).ok());
    Some(texts.map(str::to_ascii_lowercase).collect())
}

/// `YYMMDDHHMMSSZ` (before 2050) or `YYYYMMDDHHMMSSZ`.
fn time(tag: u8, text: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let full = match tag {
        0x17 => format!("{}{text}", if text.get(..2)?.parse::<u32>().ok()? < 50 { "20" } else { "19" }),
        0x18 => text.to_owned(),
        _ => return None,
    };
    let part = |at: usize, length: usize| full.get(at..at + length)?.parse::<i64>().ok();
    let (year, month, day) = (part(0, 4)?, part(4, 2)?, part(6, 2)?);
    let seconds = part(8, 2)? * 3600 + part(10, 2)? * 60 + part(12, 2)?;
    u64::try_from(days(year, month, day) * 86_400 + seconds).ok().map(Duration::from_secs)
}

/// Days since 1970-01-01 in the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March put the leap day last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day - 719_469
}

/// The elements of a DER sequence.
struct Der<'a>(&'a [u8]);

impl<'a> Iterator for Der<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [tag, first, rest @ ..] = self.0 else { return None };
        let (length, rest) = match first {
            0..=127 => (usize::from(*first), rest),
            0x81..=0x83 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
                (digits.iter().fold(0, |n, b| n << 8 | usize::from(*b)), rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_calendar_is_right() {
        assert_eq!(days(1970, 1, 1), 0);
        assert_eq!(days(2000, 3, 1), 11_017);
        assert_eq!(days(2024, 2, 29), 19_782);
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (dns_names(&bytes), not_after(&bytes));
        }
    }
}
