//! Other spellings of protected paths, as attackers write them. Deterministic: the same seed makes the same list.

/// A small pseudo-random generator (SplitMix64); nothing here is secret.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    fn word(&mut self, list: &[&'static str]) -> &'static str {
        list[self.below(list.len())]
    }
}

/// What may stand where a `/` stood.
const SLASHES: [&str; 14] =
    ["//", "///", "\\", "/\\", "%2f", "%2F", "%5c", "%5C", "%252f", "%255c", "/./", "%c0%af", "%ef%bc%8f", "/%2e/"];

/// Detours that a back end which cleans takes back.
const DETOURS: [&str; 16] = [
    "/x/..",
    "/x/../",
    "/x/%2e%2e",
    "/x/.%2e",
    "/x/%2E.",
    "/x/%252e%252e",
    "/x/..;",
    "/x/..;a=b",
    "/x/;/..",
    "/x\\..",
    "/x%2f..",
    "/x/..%2f",
    "/x/%c0%ae%c0%ae",
    "/x/..%00",
    "/x/..%20",
    "/x/..\\",
];

/// What a back end may cut off, or never see, behind a segment.
const TAILS: [&str; 20] = [
    ";", ";a=b", ";/", "%3b", "%3Ba", "%00", "\0", "%20", "%09", "\t", "%0a", "%0d", ".", "%2e", "..", "%23", "%3f",
    "%7f", "~", "\u{1}",
];

/// What stands before a path: something harmless, and the way back up.
const WAYS_BACK: [&str; 16] = [
    "/..",
    "/%2e%2e",
    "/.%2e",
    "/%2E%2E",
    "/..;",
    "/..;x",
    "/%252e%252e",
    "\\..",
    "%2f..",
    "%2f%2e%2e",
    "%5c..",
    "/./..",
    "//..",
    "/%c0%ae%c0%ae",
    "/..%00",
    "/;/..",
];

/// Every single mutation of a path.
pub fn single(path: &str, bases: &[&str]) -> Vec<String> {
    let mut all = Vec::new();
    let slashes: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
    for &at in &slashes {
        all.extend(SLASHES.iter().map(|slash| format!("{}{slash}{}", &path[..at], &path[at + 1..])));
        all.extend(DETOURS.iter().map(|detour| format!("{}{detour}{}", &path[..at], &path[at..])));
    }
    for at in slashes.iter().skip(1).copied().chain([path.len()]) {
        all.extend(TAILS.iter().map(|tail| format!("{}{tail}{}", &path[..at], &path[at..])));
    }
    for (at, c) in path.char_indices().filter(|(_, c)| c.is_ascii_alphanumeric()) {
        let (before, after) = (&path[..at], &path[at + 1..]);
        all.push(format!("{before}%{:02x}{after}", u32::from(c)));
        all.push(format!("{before}%{:02X}{after}", u32::from(c)));
        all.push(format!("{before}%25{:02x}{after}", u32::from(c)));
        all.push(format!("{before}{}{after}", c.to_ascii_uppercase()));
    }
    for base in bases {
        let depth = base.matches('/').count();
        for back in WAYS_BACK {
            all.push(format!("{base}{}{path}", back.repeat(depth)));
            all.push(format!("{base}{}{path}", back.repeat(depth + 3)));
        }
        for glue in ["?", "#", "%3f", "%23", ";", "%00", "\0", "%0d%0a", "@", ":80", "%20", " "] {
            all.push(format!("{base}{glue}{path}"));
            all.push(format!("{path}{glue}{base}"));
            all.push(format!("{base}{glue}/..{path}"));
        }
    }
    all.extend([
        path.to_owned(),
        path.to_uppercase(),
        format!("{path}/"),
        format!("{path}//"),
        format!("/{path}"),
        format!("//{path}"),
        format!("\\{}", &path[1..]),
        path[1..].to_owned(),
        format!(".{path}"),
        format!("/.{path}"),
        format!("/..{path}"),
        format!("/%2e{path}"),
        format!("*{path}"),
        format!("http:{path}"),
        format!("localhost{path}"),
    ]);
    all
}

/// Two or three mutations on top of each other.
pub fn composed(dice: &mut Dice, path: &str, bases: &[&str]) -> String {
    let mut mutant = path.to_owned();
    for _ in 0..2 + dice.below(2) {
        let slashes: Vec<usize> = mutant.match_indices('/').map(|(at, _)| at).collect();
        let Some(&at) = slashes.get(dice.below(slashes.len().max(1))) else { break };
        let letters: Vec<usize> =
            mutant.bytes().enumerate().filter(|(_, byte)| byte.is_ascii_lowercase()).map(|(at, _)| at).collect();
        match dice.below(5) {
            0 => mutant.replace_range(at..=at, dice.word(&SLASHES)),
            1 => mutant.insert_str(at, dice.word(&DETOURS)),
            2 => mutant.insert_str(at, dice.word(&TAILS)),
            3 => {
                let base = dice.pick(bases);
                mutant = format!("{base}{}{mutant}", dice.word(&WAYS_BACK).repeat(base.matches('/').count()));
            }
            _ => {
                let at = letters[dice.below(letters.len())];
                let code = format!("%{:02x}", mutant.as_bytes()[at]);
                mutant.replace_range(at..=at, &code);
            }
        }
    }
    mutant
}

/// Ways to write the host; `None`: no such header.
pub const HOSTS: [Option<&str>; 16] = [
    Some("localhost"),
    Some("LOCALHOST"),
    Some("localhost:80"),
    Some("localhost."),
    Some("api.example.com:8443"),
    Some("evil.example"),
    Some("localhost, evil.example"),
    Some("evil@localhost"),
    Some("localhost/healthz"),
    Some("localhost/../"),
    Some("localhost?"),
    Some("localhost#"),
    Some("[::1]"),
    Some(""),
    Some("localhost:99999"),
    None,
];

/// A path that has one reading, for whoever may use it: the legal characters, encoded only where they must be.
pub fn legal(dice: &mut Dice) -> String {
    const PIECES: [&str; 30] = [
        "a",
        "Z",
        "0",
        "9",
        "v1",
        "run",
        "-",
        "_",
        "~",
        "x.y",
        "!",
        "$",
        "&",
        "'",
        "(",
        ")",
        "*",
        "+",
        ",",
        "=",
        ":",
        "@",
        "%20",
        "%22",
        "%5B",
        "%5D",
        "%7C",
        "%C3%A9",
        "%E2%82%AC",
        "llama-3",
    ];
    let name = |dice: &mut Dice| {
        let length = 1 + dice.below(12);
        let rest: String = (0..length).map(|_| *dice.pick(b"abcxyzABC019._-")).map(char::from).collect();
        format!("w{rest}")
    };
    let mut path = format!("/endpoint/acme/{}", name(dice));
    for _ in 0..1 + dice.below(4) {
        // A segment of spaces alone would be refused: some back ends take it for none.
        path.push_str("/s");
        for _ in 0..1 + dice.below(5) {
            path.push_str(dice.word(&PIECES));
        }
    }
    match dice.below(4) {
        0 => path.push_str("?a=b&c"),
        1 => path.push_str("?redirect=/../v1//x%2f;y"),
        2 => path.push('/'),
        _ => {}
    }
    path
}
