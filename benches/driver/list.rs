//! The tables `list` and `list-redis`: what whoever asks the admin API for a page of the keys of one project and plane waits for,
//! among a thousand keys and among a million. Never measures a page twice in a row.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::fleet::Redis;
use crate::jwt::JWKS;
use crate::keys::{KEY_LENGTH, Keys, PROJECT};
use crate::process::SERVER_CORE;
use crate::report::{Row, Samples};
use crate::tollgate::Tollgate;
use crate::{Bench, Outcome};

/// A page among a million keys takes at most one and a half times one among a thousand.
const BAR: f64 = 1.0 / 1.5;
const FEW: usize = 1_000;
const PAGE: usize = 100;
/// Pages of one round, each behind another key.
const PAGES: usize = 400;

pub const ROWS: [Row; 4] = [
    Row::new("list", "list-1k", "us", "list-1k"),
    Row::new("list", "list-1m", "us", "list-1k").bar(BAR),
    Row::new("list-redis", "list-1k", "us", "list-1k"),
    Row::new("list-redis", "list-1m", "us", "list-1k").bar(BAR),
];

/// A server, and an administrator of the project.
struct Listed {
    tollgate: Tollgate,
    admin: String,
    /// Of all its keys, in order: where pages begin.
    ids: Vec<String>,
}

pub fn measure(bench: &Bench, keys: &Keys, samples: &mut Samples) -> Outcome<()> {
    let folder = bench.folder.join("list");
    fs::create_dir_all(&folder)?;
    bench.say(&format!("{FEW} keys for pages"));
    let few = Keys::make(&folder, FEW)?;
    let of_file = |keys: &Keys, name| {
        Listed::start(bench, name, &format!("{{embedded: {{path: {}}}}}", keys.store.display()), keys)
    };
    compare("list", of_file(&few, "list-1k")?, of_file(keys, "list-1m")?, bench, samples)?;

    let (Some(small), Some(large)) = (Redis::start(bench, "redis-1k")?, Redis::start(bench, "redis-1m")?) else {
        return Ok(());
    };
    bench.say(&format!("{FEW} and {} keys into Redis", keys.count));
    small.fill(keys, FEW)?;
    large.fill(keys, keys.count)?;
    let of_redis = |redis: &Redis, name, keys| {
        Listed::start(bench, name, &format!("{{redis: {{url: \"redis://{}\"}}}}", redis.address), keys)
    };
    compare("list-redis", of_redis(&small, "list-1k", &few)?, of_redis(&large, "list-1m", keys)?, bench, samples)?;
    small.stop()?;
    large.stop()
}

fn compare(table: &'static str, few: Listed, many: Listed, bench: &Bench, samples: &mut Samples) -> Outcome<()> {
    for round in 1..=bench.rounds {
        bench.say(&format!("{table}: round {round} of {}", bench.rounds));
        samples.add(table, "list-1k", few.pages(round)?);
        samples.add(table, "list-1m", many.pages(round)?);
    }
    few.tollgate.stop()?;
    many.tollgate.stop()
}

impl Listed {
    fn start(bench: &Bench, name: &str, store: &str, keys: &Keys) -> Outcome<Self> {
        let folder = bench.folder.join(name);
        fs::create_dir_all(&folder)?;
        fs::copy(bench.folder.join(JWKS), folder.join(JWKS))?;
        let tollgate = Tollgate::start_on(store, &bench.tollgate, &folder, keys, SERVER_CORE, false)?;
        let admin = tollgate.create_key(&bench.tollgate, "lists", "admin", "manage_keys")?;
        let text = fs::read_to_string(&keys.file)?;
        let key = |at: usize| text.get(at..at + KEY_LENGTH).and_then(|key| key.split('_').nth(2)).ok_or("an odd key");
        let mut ids =
            (0..keys.count).map(|number| Ok(key(number * KEY_LENGTH)?.to_owned())).collect::<Outcome<Vec<_>>>()?;
        ids.sort_unstable();
        Ok(Self { tollgate, admin, ids })
    }

    /// Microseconds for a page, the mean of many that begin all over the list.
    fn pages(&self, round: usize) -> Outcome<f64> {
        let places = self.ids.len().checked_sub(PAGE + 1).ok_or("too few keys for a page")?;
        let connection = TcpStream::connect(self.tollgate.admin)?;
        connection.set_nodelay(true)?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut connection = BufReader::new(connection);
        let begin = Instant::now();
        for number in 0..PAGES {
            // The golden ratio spreads them evenly, and no two alike.
            let at = ((number + round * PAGES) as f64 * 0.618_033_988_75).fract() * places as f64;
            let found = self.page(&mut connection, at as usize)?;
            if found != PAGE {
                return Err(format!("a page of {found} keys instead of {PAGE}").into());
            }
        }
        Ok(begin.elapsed().as_secs_f64() * 1e6 / PAGES as f64)
    }

    /// How many keys there are in the page behind this one.
    fn page(&self, connection: &mut BufReader<TcpStream>, at: usize) -> Outcome<usize> {
        let (after, admin) = (&self.ids[at], &self.admin);
        let request = format!(
            "GET /api/v1/auth/api-keys?project={PROJECT}&plane=data&after={after}&limit={PAGE} HTTP/1.1\r\nhost: localhost\r\n\
             authorization: Bearer {admin}\r\n\r\n"
        );
        connection.get_mut().write_all(request.as_bytes())?;
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let from = head.len();
            if connection.read_line(&mut head)? == 0 {
                return Err("the connection was closed before an answer".into());
            }
            if let Some((name, value)) = head[from..].split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body)?;
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(
                format!("{}: {}", head.lines().next().unwrap_or_default(), String::from_utf8_lossy(&body)).into()
            );
        }
        Ok(String::from_utf8(body)?.matches("{\"id\":").count())
    }
}
