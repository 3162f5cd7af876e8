//! The reply subject of a delivered message, which says everything about the delivery (ADR-15):
//! `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<nanos>.<pending>`, or the
//! longer form with domain and account hash after `$JS.ACK` and a random token at the end.

use time::OffsetDateTime;

/// What a reply subject says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reply {
    /// How often the event was delivered, this time included.
    pub(super) delivered: u64,
    /// Its sequence in the stream.
    pub(super) sequence: u64,
    /// Its delivery's sequence in the consumer.
    pub(super) consumer_sequence: u64,
    /// When it was stored.
    pub(super) stored: OffsetDateTime,
}

impl Reply {
    /// Reads a reply subject; `None` when it is none of a delivery.
    pub(super) fn parse(subject: &str) -> Option<Self> {
        let subject = subject.strip_prefix("$JS.ACK.")?;
        let (mut tokens, mut count) = ([&[][..]; 8], 0);
        for token in subject.as_bytes().split(|byte| *byte == b'.') {
            if let Some(place) = tokens.get_mut(count) {
                *place = token;
            }
            count += 1;
        }
        let [_, _, a, b, c, d, e, f] = tokens;
        let numbers = match count {
            7 => [a, b, c, d],
            9.. => [c, d, e, f],
            _ => return None,
        };
        let [delivered, sequence, consumer_sequence, nanos] = numbers.map(number);
        Some(Self {
            delivered: delivered?,
            sequence: sequence?,
            consumer_sequence: consumer_sequence?,
            stored: time(nanos?)?,
        })
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let add = |number: u64, digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    };
    (!digits.is_empty()).then(|| digits.iter().try_fold(0, add))?
}

/// Of nanoseconds since 1970, without a division of 128 bits.
fn time(nanos: u64) -> Option<OffsetDateTime> {
    let seconds = i64::try_from(nanos / 1_000_000_000).ok()?;
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
    time.replace_nanosecond(u32::try_from(nanos % 1_000_000_000).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let short = "$JS.ACK.ORDERS.shop-pay.2.17.40.1700000000000000001.5";
        let long = "$JS.ACK.hub.abc.ORDERS.shop-pay.2.17.40.1700000000000000001.5.tok";
        let expected = Reply {
            delivered: 2,
            sequence: 17,
            consumer_sequence: 40,
            stored: OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_000_000_001).unwrap(),
        };
        assert_eq!(Reply::parse(short), Some(expected));
        assert_eq!(Reply::parse(long), Some(expected));
        assert_eq!(Reply::parse("_INBOX.x"), None);
        assert_eq!(Reply::parse("$JS.ACK.a.b.c.d.e.f.g"), None);
        assert_eq!(Reply::parse("$JS.ACK.a.b.1..1.1.1"), None);
        assert_eq!(Reply::parse("$JS.ACK.a.b.1.18446744073709551616.1.1.1"), None);
    }
}
