//! Stores of tests, whose records are signed with a pepper of theirs.
#![allow(dead_code, reason = "not every test uses all of it")]

use std::path::Path;
use std::time::Duration;

use tokio::runtime::Handle;
use tollgate::pepper;
use tollgate::resolve::pepper::Pepper;
use tollgate::store::StoreError;
use tollgate::store::embedded::Embedded;
use tollgate::store::keyspace::META;
use tollgate::store::redis::Redis;
use tollgate::store::redis::connect::Connector;
use tollgate::store::signature::Signers;
use zeroize::Zeroizing;

/// Of a pepper with this byte alone.
pub fn signers_of(byte: u8) -> Signers {
    pepper::signers(&Pepper::new(1, Zeroizing::new([byte; 32])), &[])
}

/// What the peppers of servers hold that are started by tests.
pub const PEPPER: &str = "000102030405060708090a0b0c0d0e0ff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";

/// What is in [`PEPPER`].
pub fn pepper() -> Pepper {
    let mut secret = Zeroizing::new([0; 32]);
    for (byte, pair) in secret.iter_mut().zip(PEPPER.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    }
    Pepper::new(1, secret)
}

/// As [`Embedded::open`], of a store of a server.
pub fn of_server(path: &Path) -> Embedded {
    Embedded::open(path, Duration::ZERO).unwrap().with_signers(pepper::signers(&pepper(), &[]))
}

/// Puts a number in the place of the format of a file that nobody has open. Gives what was there.
pub fn file_says(path: &Path, format: u64) -> u64 {
    let database = redb::Database::open(path).unwrap();
    let write = database.begin_write().unwrap();
    let before = write.open_table(META).unwrap().insert("format", format).unwrap().unwrap().value();
    write.commit().unwrap();
    before
}

/// As [`Embedded::open`].
pub fn embedded(path: &Path, wait: Duration) -> Result<Embedded, StoreError> {
    Embedded::open(path, wait).map(|store| store.with_signers(signers_of(7)))
}

/// As [`Redis::new`].
pub fn redis(connector: Connector) -> Redis {
    Redis::new(connector, Handle::current()).with_signers(signers_of(7))
}
