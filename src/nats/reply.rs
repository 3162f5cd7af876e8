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
        let (mut tokens, mut count) = ([""; 8], 0);
        // Of one character in brackets: the search for a bare one is made for long texts.
        for token in subject.split(['.']) {
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
        let [delivered, sequence, consumer_sequence, nanos] =
            numbers.map(|n| n.parse::<u64>().ok());
        let stored = OffsetDateTime::from_unix_timestamp_nanos(nanos?.into()).ok()?;
        Some(Self {
            delivered: delivered?,
            sequence: sequence?,
            consumer_sequence: consumer_sequence?,
            stored,
        })
    }
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
    }
}
