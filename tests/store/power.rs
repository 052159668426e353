//! Power cuts on a disk that keeps what was synced, and of the rest whatever it likes: nothing that was acknowledged is
//! lost, and the store opens again.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;
use tollgate::domain::record::ApiKey;
use tollgate::store::embedded::Embedded;
use tollgate::store::{AuditQuery, StoreError, Write};

use crate::signed;
use crate::support::{Random, every_key, id, key, lock, revoked, row};

const CUTS: usize = 100;
/// What a disk writes at once.
const SECTOR: usize = 512;

/// A disk with a volatile cache.
#[derive(Debug)]
struct Disk {
    synced: Vec<u8>,
    /// What reads see: everything that was written.
    seen: Vec<u8>,
    unsynced: Vec<Change>,
    /// Changes that may still happen before the power goes; `None`: it stays on.
    until_cut: Option<u64>,
    is_off: bool,
}

#[derive(Debug)]
enum Change {
    Length(usize),
    Bytes(usize, Vec<u8>),
}

impl Disk {
    fn of(bytes: Vec<u8>) -> Self {
        Self { synced: bytes.clone(), seen: bytes, unsynced: Vec::new(), until_cut: None, is_off: false }
    }

    fn power(&mut self) -> io::Result<()> {
        if self.is_off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    /// Counts a change; the one that the power does not last for does not happen.
    fn change(&mut self) -> io::Result<()> {
        self.power()?;
        if let Some(left) = &mut self.until_cut {
            if *left == 0 {
                self.is_off = true;
                return self.power();
            }
            *left -= 1;
        }
        Ok(())
    }

    /// What is on the disk when the power comes back.
    fn after_cut(mut self, random: &mut Random) -> Vec<u8> {
        let fate = random.below(4);
        let whole = random.below(self.unsynced.len() as u64 + 1);
        for (n, change) in (0..).zip(&self.unsynced) {
            let survives = match fate {
                0 => false,
                // In order, up to some change, the last of them torn.
                1 => n < whole,
                // Any of them, in any order.
                2 => random.below(2) == 0,
                _ => random.below(10) != 0,
            };
            match change {
                Change::Length(length) if survives => self.synced.resize(*length, 0),
                Change::Length(_) => {}
                Change::Bytes(at, bytes) => {
                    // Of what survives one in four is torn, and of what does not one in four got half way.
                    let torn = random.below(4) == 0 && fate != 0;
                    let sectors = (bytes.len() / SECTOR) as u64;
                    let kept = match (survives, torn) {
                        (true, false) => bytes.len(),
                        (false, false) => 0,
                        (_, true) => random.below(sectors + 1) as usize * SECTOR,
                    };
                    if kept > 0 {
                        write(&mut self.synced, *at, &bytes[..kept]);
                    }
                }
            }
        }
        self.synced
    }
}

fn write(disk: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if disk.len() < at + bytes.len() {
        disk.resize(at + bytes.len(), 0);
    }
    disk[at..at + bytes.len()].copy_from_slice(bytes);
}

#[derive(Clone, Debug)]
struct Plug(Arc<Mutex<Disk>>);

impl Plug {
    fn into(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Disk::of(bytes))))
    }

    fn open(&self) -> Result<Embedded, StoreError> {
        let plug = self.clone();
        let store = Embedded::open_with(Arc::new(move || Ok(Box::new(plug.clone()) as Box<dyn StorageBackend>)));
        store.map(|store| store.with_signers(signed::signers_of(7)))
    }
}

impl StorageBackend for Plug {
    fn len(&self) -> io::Result<u64> {
        let mut disk = lock(&self.0);
        disk.power()?;
        Ok(disk.seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut disk = lock(&self.0);
        disk.power()?;
        let at = offset as usize;
        let bytes = disk.seen.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = lock(&self.0);
        disk.change()?;
        disk.seen.resize(len as usize, 0);
        disk.unsynced.push(Change::Length(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = lock(&self.0);
        disk.change()?;
        disk.unsynced.clear();
        let Disk { synced, seen, .. } = &mut *disk;
        synced.clone_from(seen);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut disk = lock(&self.0);
        disk.change()?;
        write(&mut disk.seen, offset as usize, data);
        disk.unsynced.push(Change::Bytes(offset as usize, data.to_vec()));
        Ok(())
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_a_power_cut() {
    let mut random = Random(1);
    let plug = Plug::into(Vec::new());
    drop(plug.open().unwrap());
    let mut bytes = lock(&plug.0).synced.clone();
    // What was acknowledged, and what was asked for when the power went.
    let mut acknowledged: BTreeMap<u64, ApiKey> = BTreeMap::new();
    let mut asked: Option<ApiKey> = None;
    let mut next = 0;
    let mut cuts = 0;
    let mut while_opening = 0;
    while cuts < CUTS {
        let plug = Plug::into(bytes);
        let within = [20, 200][random.below(2) as usize];
        lock(&plug.0).until_cut = Some(random.below(within));
        match plug.open() {
            Err(error) => {
                assert!(error.is_transient(), "cut {cuts}: {error}");
                while_opening += 1;
            }
            Ok(store) => {
                if let Err(lost) = check(&store, &mut acknowledged, &mut asked) {
                    panic!("cut {cuts}: {lost}");
                }
                asked = work(&store, &mut random, &mut next, &mut acknowledged);
            }
        }
        assert!(lock(&plug.0).is_off, "the power went");
        cuts += 1;
        let disk = std::mem::replace(&mut *lock(&plug.0), Disk::of(Vec::new()));
        bytes = disk.after_cut(&mut random);
    }
    let store = Plug::into(bytes).open().unwrap();
    check(&store, &mut acknowledged, &mut asked).unwrap();
    println!("{CUTS} cuts ({while_opening} while opening): {} keys acknowledged, 0 lost", acknowledged.len());
    assert!(acknowledged.len() > 100, "there was something to lose");
}

/// Mints and revokes until the power goes; gives what was asked for and not acknowledged.
fn work(
    store: &Embedded,
    random: &mut Random,
    next: &mut u64,
    acknowledged: &mut BTreeMap<u64, ApiKey>,
) -> Option<ApiKey> {
    for _ in 0..1000 {
        let old = acknowledged.values().nth(random.below(acknowledged.len() as u64 + 1) as usize);
        let (n, record, step) = match old {
            Some(old) if random.below(3) == 0 => {
                let n = old.id.as_str().parse().unwrap();
                (n, revoked(old), Write::UpdateKey(revoked(old)))
            }
            _ => {
                *next += 1;
                (*next, key(*next), Write::CreateKey(key(*next)))
            }
        };
        match store.apply(&[step, Write::Audit(row(record.id.as_str()))]) {
            Ok(_) => acknowledged.insert(n, record),
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                assert!(!error.to_string().contains("panicked"), "{error}");
                return Some(record);
            }
        };
    }
    panic!("what is acknowledged never reaches the disk");
}

/// Every acknowledged record is there as it was acknowledged, or as it was asked to be when the power went.
fn check(store: &Embedded, acknowledged: &mut BTreeMap<u64, ApiKey>, asked: &mut Option<ApiKey>) -> Result<(), String> {
    let all = every_key(store);
    if let Some(asked) = asked.take()
        && all.contains(&asked)
    {
        acknowledged.insert(asked.id.as_str().parse().unwrap(), asked);
    }
    for (n, record) in &*acknowledged {
        if !all.contains(record) {
            return Err(format!("{} is lost: {:?}", id(*n), store.key(id(*n))));
        }
    }
    if all.len() != acknowledged.len() {
        return Err("there is more than was ever asked for".to_owned());
    }
    // Each version of a record was written with a row of its own.
    let rows = store.audit(&AuditQuery { limit: usize::MAX, ..AuditQuery::default() }).unwrap().rows;
    let numbers = rows.iter().rev().map(|row| row.sequence);
    if !numbers.eq(1..=all.iter().map(|key| key.version).sum()) {
        return Err(format!("{} rows of the audit log are not one for each change", rows.len()));
    }
    Ok(())
}
