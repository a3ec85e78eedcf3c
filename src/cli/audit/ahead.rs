//! A file that is read ahead of whoever looks at it, on a thread of its own: that the kernel copies its pages can take as
//! long as looking at them.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

/// Bytes that are read at a time.
const BLOCK_BYTES: usize = 256 * 1024;
/// Blocks that were read and wait.
const BLOCKS: usize = 8;

/// What was read, in order.
pub(super) struct Ahead {
    /// At the end of the file they are empty, without end.
    blocks: Receiver<io::Result<Vec<u8>>>,
    block: Vec<u8>,
    /// How much of the block was consumed, in bytes.
    at: usize,
}

impl Ahead {
    /// Begins to read. It ends when this is dropped.
    ///
    /// # Errors
    /// No thread can be had.
    pub(super) fn of(mut file: impl Read + Send + 'static) -> io::Result<Self> {
        let (send, blocks) = sync_channel(BLOCKS);
        let mut next = move || {
            let mut block = Vec::with_capacity(BLOCK_BYTES);
            file.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block).map(|_| block)
        };
        thread::Builder::new().name("read-ahead".into()).spawn(move || while send.send(next()).is_ok() {})?;
        Ok(Ahead { blocks, block: Vec::new(), at: 0 })
    }
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.block.len() {
            self.block = self.blocks.recv().map_err(io::Error::other)??;
            self.at = 0;
        }
        Ok(&self.block[self.at..])
    }

    fn consume(&mut self, bytes: usize) {
        self.at += bytes;
    }
}

impl Read for Ahead {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_ahead_is_the_file_and_its_end_stays_its_end() {
        let bytes: Vec<u8> = (0..3 * BLOCK_BYTES + 7).map(|n| (n % 251).to_le_bytes()[0]).collect();
        let mut ahead = Ahead::of(io::Cursor::new(bytes.clone())).unwrap();
        let mut read = Vec::new();
        ahead.read_to_end(&mut read).unwrap();
        assert!(read == bytes);
        assert!(ahead.fill_buf().unwrap().is_empty() && ahead.fill_buf().unwrap().is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_read_to_its_end_is_not_taken_for_a_shorter_one() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        let mut ahead = Ahead::of(b"begin".chain(Broken)).unwrap();
        assert_eq!(ahead.read_to_end(&mut Vec::new()).unwrap_err().to_string(), "broken");
    }

    #[test]
    fn a_reader_that_dies_is_no_end_of_the_file() {
        struct Dying;
        impl Read for Dying {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                std::panic::resume_unwind(Box::new(()))
            }
        }
        Ahead::of(Dying).unwrap().read_to_end(&mut Vec::new()).unwrap_err();
    }
}
