//! The patterns of `ssh_config` and `known_hosts`: `*`, `?`, and `!` for not.

/// Whether `text` fits a pattern with `*` and `?`; bytes, as OpenSSH does it.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where the last `*` stood, and how far it reaches so far.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, reach)) => {
                    p = at + 1;
                    t = reach + 1;
                    star = Some((at, t));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// Whether one of `patterns` fits and none of those with `!` does.
pub(super) fn fits_list<'p>(patterns: impl IntoIterator<Item = &'p str>, text: &str) -> bool {
    let mut fits_one = false;
    for pattern in patterns {
        match pattern.strip_prefix('!') {
            Some(pattern) if fits(pattern, text) => return false,
            Some(_) => {}
            None => fits_one |= fits(pattern, text),
        }
    }
    fits_one
}

/// Whether it is a pattern and not a name.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '!'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_fit_as_in_openssh() {
        for (pattern, text) in [
            ("*", ""),
            ("a*c", "abbbc"),
            ("*.example.com", "a.b.example.com"),
            ("a?c", "abc"),
            ("*a*b", "xaxbxab"),
            ("[*.example.net]:999", "[x.example.net]:999"),
        ] {
            assert!(fits(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "a"), ("a?", "a"), ("a*b", "abc"), ("?", "")] {
            assert!(!fits(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn one_negation_outweighs_every_fit() {
        assert!(fits_list(["web*", "!web3"], "web1"));
        assert!(!fits_list(["web*", "!web3"], "web3"));
        assert!(!fits_list(["!web3"], "web1"));
    }
}
