//! [`ControlFrameLimiter`]: slows down clients that flood the server with HTTP/2 control frames.
//!
//! HTTP/2 lets a client send PING, SETTINGS, PRIORITY, WINDOW_UPDATE, RST_STREAM and unknown frames without limit, and
//! `h2` answers each as fast as it can (CVE-2019-9512, -9514, -9515, CVE-2023-44487). This counts such frames in the
//! bytes that are read. A client that sends more of them than the bytes it receives account for is read with pauses.
//! Only its own traffic waits, and a well-behaved client doesn't lose its connection over a burst. Calls (HEADERS,
//! DATA) are not counted.

/// Credit of a new connection, in frames: enough to cancel every call that one connection may have.
const CREDIT_START: i64 = 2048;
/// The most credit that written bytes can add up to.
const CREDIT_MAX: i64 = 8192;
/// Bytes written that earn credit for one frame. Clients send one WINDOW_UPDATE per few KiB; a small message has 64 bytes.
const BYTES_PER_CREDIT: i64 = 64;
/// Frames per pause. With pauses of 10 ms that allows 6,400 frames a second.
const FRAMES_PER_PAUSE: i64 = 64;

/// Size of a frame header.
const HEADER_BYTES: usize = 9;

/// Follows the frame headers that one connection's peer sends, and its credit.
#[derive(Debug)]
pub(super) struct ControlFrameLimiter {
    header: [u8; HEADER_BYTES],
    /// Bytes of the current frame's header that have been read.
    header_read: usize,
    /// Bytes of the current frame's payload that are still to come.
    payload_left: usize,
    /// Frames that may still be sent without a pause; negative when pauses are due.
    credit: i64,
    /// Bytes written that have not earned credit yet.
    written: i64,
}

impl ControlFrameLimiter {
    pub(super) fn new() -> Self {
        ControlFrameLimiter {
            header: [0; HEADER_BYTES],
            header_read: 0,
            payload_left: 0,
            credit: CREDIT_START,
            written: 0,
        }
    }

    /// For bytes read from the peer after its preface. Returns how many pauses are due.
    pub(super) fn on_read(&mut self, mut bytes: &[u8]) -> u32 {
        let mut counted = 0;
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let step = self.payload_left.min(bytes.len());
                self.payload_left -= step;
                bytes = &bytes[step..];
                continue;
            }
            let step = (HEADER_BYTES - self.header_read).min(bytes.len());
            self.header[self.header_read..self.header_read + step].copy_from_slice(&bytes[..step]);
            self.header_read += step;
            bytes = &bytes[step..];
            if self.header_read == HEADER_BYTES {
                let [a, b, c, kind, flags, ..] = self.header;
                self.payload_left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.header_read = 0;
                counted += i64::from(is_counted(kind, flags));
            }
        }
        self.credit -= counted;
        if counted == 0 || self.credit >= 0 {
            return 0;
        }
        let pauses = (-self.credit) / FRAMES_PER_PAUSE;
        self.credit += pauses * FRAMES_PER_PAUSE;
        u32::try_from(pauses).unwrap_or(u32::MAX)
    }

    /// For bytes written to the peer.
    pub(super) fn on_write(&mut self, bytes: usize) {
        self.written += i64::try_from(bytes).unwrap_or(i64::MAX / 2);
        self.credit = (self.credit + self.written / BYTES_PER_CREDIT).min(CREDIT_MAX.max(self.credit));
        self.written %= BYTES_PER_CREDIT;
    }
}

/// Whether a frame is counted. Answers to our own PING and SETTINGS are not; DATA, HEADERS and CONTINUATION have
/// limits of their own.
fn is_counted(kind: u8, flags: u8) -> bool {
    const ACK: u8 = 1;
    match kind {
        // DATA, HEADERS, PUSH_PROMISE, GOAWAY, CONTINUATION. GOAWAY ends the connection, PUSH_PROMISE is an error for a
        // client.
        0 | 1 | 5 | 7 | 9 => false,
        // SETTINGS, PING.
        4 | 6 => flags & ACK == 0,
        // PRIORITY, RST_STREAM, WINDOW_UPDATE, and unknown types.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = (payload as u32).to_be_bytes();
        [&[length[1], length[2], length[3], kind, flags, 0, 0, 0, 1][..], &vec![6; payload]].concat()
    }

    #[test]
    fn pings_cause_pauses_and_acknowledgements_do_not() {
        let mut limiter = ControlFrameLimiter::new();
        assert_eq!(limiter.on_read(&frame(6, 0, 8).repeat(CREDIT_START as usize)), 0);
        assert_eq!(limiter.on_read(&frame(6, 0, 8).repeat(FRAMES_PER_PAUSE as usize)), 1);
        assert_eq!(limiter.on_read(&frame(6, 1, 8).repeat(10_000)), 0);
        assert_eq!(limiter.on_read(&frame(0, 0, 1).repeat(10_000)), 0);
        assert_eq!(limiter.on_read(&frame(0x77, 0, 0).repeat(640)), 10);
    }

    #[test]
    fn frames_that_answer_written_data_cause_no_pause() {
        let mut limiter = ControlFrameLimiter::new();
        for _ in 0..100_000 {
            limiter.on_write(100);
            assert_eq!(limiter.on_read(&frame(8, 0, 4)), 0);
        }
        // But credit has a maximum.
        limiter.on_write(1 << 30);
        assert!(limiter.on_read(&frame(8, 0, 4).repeat(2 * CREDIT_MAX as usize)) > 100);
    }

    proptest! {
        #[test]
        fn p12_the_boundaries_of_reads_change_no_count(kinds in proptest::collection::vec((0_u8..12, 0_u8..2, 0_usize..40), 0..200), size in 1_usize..50) {
            let bytes: Vec<u8> = kinds.iter().flat_map(|(kind, flags, payload)| frame(*kind, *flags, *payload)).collect();
            let (mut whole, mut cut) = (ControlFrameLimiter::new(), ControlFrameLimiter::new());
            whole.on_read(&bytes);
            bytes.chunks(size).for_each(|piece| {
                cut.on_read(piece);
            });
            prop_assert_eq!(whole.credit, cut.credit);
        }
    }
}
