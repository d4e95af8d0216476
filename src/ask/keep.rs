//! The patterns of `etc.keep`: what a persistent /etc may take from the disk.
//!
//! A pattern is a path below /etc. `*` in a component stands for any characters but `/`, and a last component `**` for
//! everything below its directory. Names on a disk are bytes, and so is what patterns are compared with.

use miniserde::Serialize;
use miniserde::ser::Fragment;

use crate::refusal::Refusal;

/// More patterns than this are no list that somebody has looked at.
const MAX_PATTERNS: usize = 256;
/// The longest pattern, in bytes.
const MAX_PATTERN: usize = 255;
const EVERYTHING: &str = "**";

/// What in /etc is neither run nor names what to run, and says neither whom a program of root's believes nor what opens a disk: no
/// program takes a path, a command, a library, an anchor of trust or a key of a volume from it.
pub const DATA: [&str; 12] = [
    ".updated",
    "adjtime",
    "chrony.keys",
    "cockpit/ws-certs.d/**",
    "hostname",
    "hosts",
    "localtime",
    "machine-id",
    "resolv.conf",
    "ssh/ssh_host_*",
    "ssl/private/**",
    "timezone",
];

/// Which files of an upper layer are kept. An empty list keeps none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeepList {
    patterns: Vec<String>,
}

impl TryFrom<Vec<String>> for KeepList {
    type Error = Refusal;

    fn try_from(patterns: Vec<String>) -> Result<Self, Refusal> {
        if patterns.len() > MAX_PATTERNS {
            return Err(Refusal::of("").expected("at most 256 patterns").found(patterns.len()));
        }
        patterns.iter().try_for_each(|pattern| check(pattern))?;
        Ok(Self { patterns })
    }
}

impl Serialize for KeepList {
    fn begin(&self) -> Fragment<'_> {
        self.patterns.begin()
    }
}

impl KeepList {
    /// Whether what is at `path` is listed, if it is no directory.
    pub fn matches(&self, path: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| matches(pattern, path))
    }

    /// Whether anything below `path` can be listed, if it is a directory.
    pub fn may_match_below(&self, path: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| may_match_below(pattern, path))
    }

    /// Whether nothing is listed but what is known to be data. What is not known may be code: there is no end of programs that
    /// take what to run from /etc.
    pub fn is_data(&self) -> bool {
        self.patterns.iter().all(|pattern| DATA.iter().any(|known| covers(known, pattern)))
    }
}

/// Whether a pattern lists nothing but what another one does.
fn covers(known: &str, pattern: &str) -> bool {
    let mut components = pattern.split('/');
    for expected in known.split('/') {
        match components.next() {
            Some(_) if expected == EVERYTHING => return true,
            Some(component) if component == expected => {}
            Some(component) if !component.contains('*') && fits(expected, component.as_bytes()) => {}
            _ => return false,
        }
    }
    components.next().is_none()
}

fn check(pattern: &str) -> Result<(), Refusal> {
    let wrong = |expected| Err(Refusal::of("").expected(expected).found(format!("'{}'", pattern.escape_default())));
    if pattern.len() > MAX_PATTERN {
        let found = format!("{} bytes", pattern.len());
        return Err(Refusal::of("").expected("a pattern of at most 255 bytes").found(found));
    }
    if pattern.chars().any(char::is_control) {
        return wrong("a pattern without control characters");
    }
    if pattern.starts_with('/') {
        return wrong("a path relative to /etc");
    }
    if pattern.split('/').any(|component| matches!(component, "" | "." | "..")) {
        return wrong("a path of names without '', '.' and '..'");
    }
    // The whole of /etc is no list.
    let names = pattern.strip_suffix("/**").unwrap_or(pattern);
    if names.contains(EVERYTHING) {
        return wrong("'**' only as the last component, behind a directory");
    }
    Ok(())
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
}

fn matches(pattern: &str, path: &[u8]) -> bool {
    let mut names = components(path);
    for component in pattern.split('/') {
        match names.next() {
            Some(_) if component == EVERYTHING => return true,
            Some(name) if fits(component, name) => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

fn may_match_below(pattern: &str, path: &[u8]) -> bool {
    let mut expected = pattern.split('/');
    for name in components(path) {
        match expected.next() {
            Some(EVERYTHING) => return true,
            Some(component) if fits(component, name) => {}
            _ => return false,
        }
    }
    expected.next().is_some()
}

/// Whether a name is like one component of a pattern. What stands between two `*` is taken where it is found first: if a
/// name fits at all, it fits so.
fn fits(component: &str, name: &[u8]) -> bool {
    let mut parts = component.as_bytes().split(|byte| *byte == b'*');
    let Some(rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    let Some(mut rest) = rest.strip_suffix(last) else { return false };
    for part in parts.filter(|part| !part.is_empty()) {
        let Some(found) = rest.windows(part.len()).position(|window| window == part) else { return false };
        rest = rest.get(found + part.len()..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATTERNS: [&str; 10] = [
        "machine-id",
        "ssh/ssh_host_*",
        "NetworkManager/system-connections/**",
        "*.d/*-local.conf",
        "a/b/c/**",
        "*",
        "x*y*z",
        "*/**",
        "ä*",
        "a*a",
    ];

    fn list(patterns: &[&str]) -> Result<KeepList, Refusal> {
        KeepList::try_from(patterns.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_listed() {
        for (pattern, path, listed) in [
            ("machine-id", "machine-id", true),
            ("machine-id", "machine-id2", false),
            ("machine-id", "x/machine-id", false),
            ("machine-id", "machine-id/x", false),
            ("ssh/ssh_host_*", "ssh/ssh_host_rsa_key", true),
            ("ssh/ssh_host_*", "ssh/ssh_host_", true),
            ("ssh/ssh_host_*", "ssh/sshd_config", false),
            ("ssh/ssh_host_*", "ssh/ssh_host_x/y", false),
            ("ssh/ssh_host_*", "ssh", false),
            ("a/**", "a", false),
            ("a/**", "a/b", true),
            ("a/**", "a/b/c", true),
            ("a/**", "ab/c", false),
            ("*", ".hidden", true),
            ("*", "a/b", false),
            ("*.d/*-local.conf", "x.d/9-local.conf", true),
            ("*.d/*-local.conf", "x.d/y/9-local.conf", false),
            ("x*y*z", "xyz", true),
            ("x*y*z", "x1y2y3z", true),
            ("x*y*z", "xz", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*ab*b", "aab", false),
            ("a*ab*b", "aabb", true),
            ("[a]?", "a1", false),
            ("[a]?", "[a]?", true),
        ] {
            assert_eq!(list(&[pattern]).unwrap().matches(path.as_bytes()), listed, "{pattern} {path}");
        }
        assert!(list(&["caf*"]).unwrap().matches(b"caf\xe9"));
        assert!(!list(&[]).unwrap().matches(b"machine-id"));
    }

    #[test]
    fn what_may_be_below() {
        for (pattern, path, may) in [
            ("machine-id", "machine-id", false),
            ("ssh/ssh_host_*", "ssh", true),
            ("ssh/ssh_host_*", "ssh/ssh_host_x", false),
            ("a/b/**", "a", true),
            ("a/b/**", "a/b", true),
            ("a/b/**", "a/b/c/d", true),
            ("a/b/**", "a/c", false),
            ("*/x", "anything", true),
        ] {
            assert_eq!(list(&[pattern]).unwrap().may_match_below(path.as_bytes()), may, "{pattern} {path}");
        }
    }

    /// The walk goes into a directory only if something below it can be listed, so no directory above a listed path may be
    /// denied.
    #[test]
    fn ancestors_of_what_is_listed_are_never_denied() {
        let names = ["a", "b", "c", "aa", "x.d", "9-local.conf", "xyz", "ssh", "ssh_host_rsa", "machine-id", "äö"];
        let mut paths: Vec<String> = names.map(Into::into).to_vec();
        for _ in 0..3 {
            let longer = |path: &String| names.map(|name| format!("{path}/{name}"));
            paths = names.iter().map(ToString::to_string).chain(paths.iter().flat_map(longer)).collect();
        }
        for pattern in PATTERNS {
            let list = list(&[pattern]).unwrap();
            for path in paths.iter().filter(|path| list.matches(path.as_bytes())) {
                for (end, _) in path.match_indices('/') {
                    assert!(list.may_match_below(&path.as_bytes()[..end]), "{pattern} {path} {end}");
                }
            }
        }
    }

    #[test]
    fn what_is_data() {
        for (pattern, data) in [
            ("machine-id", true),
            ("machine-id*", false),
            ("hostname", true),
            ("ssh/ssh_host_*", true),
            ("ssh/ssh_host_ed25519_key", true),
            ("ssh/ssh_host_*_key", false),
            ("ssh/*", false),
            ("ssh/**", false),
            ("NetworkManager/**", false),
            ("NetworkManager/system-connections", false),
            ("NetworkManager/system-connections/**", false),
            ("NetworkManager/system-connections/*.nmconnection", false),
            ("NetworkManager/system-connections/a/b", false),
            ("NetworkManager/dispatcher.d/x", false),
            ("NetworkManager/*", false),
            ("ld.so.preload", false),
            ("ld.so.*", false),
            ("nsswitch.conf", false),
            ("systemd/system/a.service", false),
            ("*/system/a.service", false),
            ("unheard-of", false),
            ("*", false),
        ] {
            assert_eq!(list(&[pattern]).unwrap().is_data(), data, "{pattern}");
            assert!(!list(&[pattern, "profile"]).unwrap().is_data(), "{pattern}");
        }
        assert!(list(&[]).unwrap().is_data());
        assert!(list(&DATA).unwrap().is_data());
    }

    #[test]
    fn refusals() {
        let long = "a".repeat(256);
        for (pattern, message) in [
            ("", "expected a path of names without '', '.' and '..', found ''"),
            ("/etc/hostname", "expected a path relative to /etc, found '/etc/hostname'"),
            ("a//b", "expected a path of names without '', '.' and '..', found 'a//b'"),
            ("a/", "expected a path of names without '', '.' and '..', found 'a/'"),
            ("./a", "expected a path of names without '', '.' and '..', found './a'"),
            ("a/../b", "expected a path of names without '', '.' and '..', found 'a/../b'"),
            ("**", "expected '**' only as the last component, behind a directory, found '**'"),
            ("**/a", "expected '**' only as the last component, behind a directory, found '**/a'"),
            ("a/**/b", "expected '**' only as the last component, behind a directory, found 'a/**/b'"),
            ("a/**/**", "expected '**' only as the last component, behind a directory, found 'a/**/**'"),
            ("a/b**", "expected '**' only as the last component, behind a directory, found 'a/b**'"),
            ("a/***", "expected '**' only as the last component, behind a directory, found 'a/***'"),
            ("a\0b", "expected a pattern without control characters, found 'a\\u{0}b'"),
            ("a\nb", "expected a pattern without control characters, found 'a\\nb'"),
            (&long, "expected a pattern of at most 255 bytes, found 256 bytes"),
        ] {
            assert_eq!(list(&["ok", pattern]).unwrap_err().to_string(), message);
        }
        assert!(list(&vec!["a"; 256]).is_ok());
        let message = "expected at most 256 patterns, found 257";
        assert_eq!(list(&vec!["a"; 257]).unwrap_err().to_string(), message);
        list(&PATTERNS).unwrap();
    }
}
