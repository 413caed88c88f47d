//! Counts the words of files with jieba-rs: a document a line, a hash map per thread, merged at the end.
//!
//!     count-jieba-rs THREADS DICTIONARY OUTPUT FILE...
//!
//! Prints the seconds from opening the files to the finished table, and writes it to OUTPUT.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::str;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use jieba_rs::Jieba;
use rustc_hash::FxHashMap;

type Fault = Box<dyn Error + Send + Sync>;
type Table = FxHashMap<Box<str>, u64>;

const BLOCK: u64 = 1 << 18; // stays in a core's cache
const REST: u64 = 1 << 14; // is read at once of what a line has after its block

/// The part of a file in which the lines of a block begin.
struct Block<'f> {
    file: &'f File,
    start: u64,
}

impl Block<'_> {
    /// Reads the lines that begin in the block, the last of them whole.
    fn read<'b>(&self, bytes: &'b mut Vec<u8>) -> io::Result<&'b [u8]> {
        // The byte before the block says whether a line begins with the block.
        let ahead = u64::from(self.start > 0);
        bytes.clear();
        let first = self.start - ahead;
        let mut is_last = !read_more(self.file, first, BLOCK + ahead, bytes)?;
        let mut begin = 0;
        if ahead == 1 {
            match bytes[..bytes.len().saturating_sub(1)].iter().position(|&byte| byte == b'\n') {
                Some(end) => begin = end + 1,
                None => return Ok(&[]),
            }
        }
        while !is_last && !bytes.ends_with(b"\n") {
            let filled = bytes.len();
            is_last = !read_more(self.file, first + filled as u64, REST, bytes)?;
            if let Some(end) = bytes[filled..].iter().position(|&byte| byte == b'\n') {
                bytes.truncate(filled + end + 1);
            }
        }
        Ok(&bytes[begin..])
    }
}

/// Appends so many bytes of a file, or fewer at its end, and says whether they were there.
fn read_more(file: &File, offset: u64, wanted: u64, bytes: &mut Vec<u8>) -> io::Result<bool> {
    let filled = bytes.len();
    bytes.resize(filled + wanted as usize, 0);
    let got = read_fully(file, &mut bytes[filled..], offset)?;
    bytes.truncate(filled + got);
    Ok(got == wanted as usize)
}

fn read_fully(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Counts the blocks that `next` hands out until there are none left.
fn count(jieba: &Jieba, blocks: &[Block], next: &AtomicUsize) -> Result<Table, Fault> {
    let mut table = Table::default();
    let mut bytes = Vec::new();
    while let Some(block) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
        for line in str::from_utf8(block.read(&mut bytes)?)?.lines() {
            for token in jieba.cut(line, true) {
                match table.get_mut(token.word) {
                    Some(count) => *count += 1,
                    None => drop(table.insert(token.word.into(), 1)),
                }
            }
        }
    }
    Ok(table)
}

/// Adds the smaller tables to the largest.
fn merged(mut tables: Vec<Table>) -> Table {
    tables.sort_by_key(Table::len);
    let mut all = tables.pop().unwrap_or_default();
    for (token, count) in tables.into_iter().flatten() {
        *all.entry(token).or_insert(0) += count;
    }
    all
}

fn count_files(jieba: &Jieba, threads: usize, paths: &[String]) -> Result<Table, Fault> {
    let files = paths.iter().map(File::open).collect::<io::Result<Vec<_>>>()?;
    let mut blocks = Vec::new();
    for file in &files {
        let starts = (0..file.metadata()?.len()).step_by(BLOCK as usize);
        blocks.extend(starts.map(|start| Block { file, start }));
    }
    let next = AtomicUsize::new(0);
    let tables = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| count(jieba, &blocks, &next)))
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| "a thread has died")?)
            .collect::<Result<Vec<_>, Fault>>()
    })?;
    Ok(merged(tables))
}

fn main() -> Result<(), Fault> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [threads, dictionary, output, paths @ ..] = &arguments[..] else {
        return Err("expected THREADS DICTIONARY OUTPUT FILE...".into());
    };
    let jieba = Jieba::with_dict(&mut BufReader::new(File::open(dictionary)?))?;
    jieba.cut("杭研大厦", true); // what is made at the first use is made now
    let began = Instant::now();
    let table = count_files(&jieba, threads.parse()?, paths)?;
    println!("{:.6}", began.elapsed().as_secs_f64());
    let mut file = BufWriter::new(File::create(output)?);
    for (token, count) in &table {
        writeln!(file, "{token}\t{count}")?;
    }
    Ok(file.flush()?)
}
