//! Stop strings in a stream of text.

/// Lets text through, except what is or could become a stop string.
#[derive(Clone, Debug)]
pub(crate) struct StopFilter {
    stops: Vec<String>,
    held: String,
}

impl StopFilter {
    /// A filter for these strings; empty ones are ignored.
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Takes more text; gives what is certain not to belong to a stop string, and whether one was found: then the text
    /// before it is given and the rest is dropped.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        if self.stops.is_empty() {
            return (text.to_owned(), false);
        }
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            let before = self.held[..at].to_owned();
            self.held.clear();
            return (before, true);
        }
        let open = self.held.char_indices().map(|(i, _)| i).find(|&i| {
            let tail = &self.held[i..];
            self.stops.iter().any(|s| s.starts_with(tail))
        });
        let rest = self.held.split_off(open.unwrap_or(self.held.len()));
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back, when no more text comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut filter = StopFilter::new(&stops.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let mut out = Vec::new();
        for piece in pieces {
            let (text, stopped) = filter.push(piece);
            out.push(text);
            if stopped {
                return (out, true);
            }
        }
        out.push(filter.finish());
        (out, false)
    }

    #[test]
    fn text_that_could_begin_a_stop_string_is_held_back() {
        assert_eq!(run(&["END"], &["aE", "N", "x"]), (vec!["a".into(), "".into(), "ENx".into(), "".into()], false));
        assert_eq!(run(&["END"], &["aE", "N"]), (vec!["a".into(), "".into(), "EN".into()], false));
    }

    #[test]
    fn the_stop_string_and_what_follows_is_never_given() {
        assert_eq!(run(&["END"], &["aEN", "Db"]), (vec!["a".into(), "".into()], true));
        assert_eq!(run(&["b", "ab"], &["xab"]), (vec!["x".into()], true));
        assert_eq!(run(&["aab"], &["aaab"]), (vec!["a".into()], true));
    }

    #[test]
    fn whole_characters_stay_whole() {
        assert_eq!(run(&["éa"], &["xé", "é", "a"]), (vec!["x".into(), "é".into(), "".into()], true));
    }

    #[test]
    fn without_stop_strings_all_text_passes_at_once() {
        assert_eq!(run(&[""], &["a", "b"]), (vec!["a".into(), "b".into(), "".into()], false));
    }
}
