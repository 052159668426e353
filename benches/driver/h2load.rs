//! Runs `h2load` on the load's core and reads its figures. Never believes a run in which a request failed.

use std::path::{Path, PathBuf};

use crate::Outcome;
use crate::load::percentile;
use crate::process::{LOAD_CORE, output_of, pinned};

/// One run.
pub struct Run<'a> {
    /// Such as `http://127.0.0.1:9180/path`.
    pub url: String,
    /// Name and value.
    pub headers: &'a [(&'a str, &'a str)],
    /// The file that holds the body of a POST; a GET without.
    pub body: Option<&'a Path>,
    /// HTTP/1.1 and not HTTP/2.
    pub http1: bool,
    pub connections: usize,
    pub streams: usize,
    pub requests: usize,
    /// Where to keep the time of each request, if that is asked for.
    pub log: Option<&'a Path>,
}

/// What it measured.
pub struct Figures {
    /// Requests a second.
    pub rate: f64,
    /// Microseconds of each request, sorted; only with a log.
    pub micros: Vec<u32>,
}

impl Figures {
    pub fn percentile(&self, percent: usize) -> f64 {
        f64::from(percentile(&self.micros, percent))
    }
}

impl Run<'_> {
    pub fn go(&self) -> Outcome<Figures> {
        let mut command = pinned(LOAD_CORE, &program()?);
        command.args(["-c", &self.connections.to_string(), "-m", &self.streams.to_string()]);
        command.args(["-n", &self.requests.to_string()]);
        for (name, value) in self.headers {
            command.arg("-H").arg(format!("{name}: {value}"));
        }
        if let Some(body) = self.body {
            command.arg("-d").arg(body);
        }
        if self.http1 {
            command.arg("--h1");
        }
        if let Some(log) = self.log {
            // It appends.
            let _ = std::fs::remove_file(log);
            command.arg(format!("--log-file={}", log.display()));
        }
        let text = output_of(command.arg(&self.url))?;
        let succeeded = format!("{} succeeded, 0 failed, 0 errored, 0 timeout", self.requests);
        let codes = format!("status codes: {} 2xx", self.requests);
        if !text.contains(&succeeded) || !text.contains(&codes) {
            return Err(format!("h2load {}: not every request succeeded\n{text}", self.url).into());
        }
        let rate = text.lines().find_map(|line| {
            let (_, rest) = line.strip_prefix("finished in ")?.split_once(", ")?;
            rest.split_once(" req/s")?.0.parse().ok()
        });
        let mut micros = Vec::new();
        if let Some(log) = self.log {
            for line in std::fs::read_to_string(log)?.lines() {
                micros.push(line.rsplit('\t').next().ok_or("an odd log line")?.parse()?);
            }
            micros.sort_unstable();
        }
        Ok(Figures { rate: rate.ok_or("h2load gives no rate")?, micros })
    }
}

fn program() -> Outcome<PathBuf> {
    find("h2load").ok_or_else(|| "h2load is missing: install nghttp2-client".into())
}

/// A program on PATH.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}
