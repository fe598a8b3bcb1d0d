//! What spaCy's rules for English would divide wrongly: contractions, abbreviations, smileys.

use std::sync::LazyLock;

use super::english::by_rules;
use super::{Table, hash};

/// Bytes of the longest exception: a flying table.
pub const LONGEST_EXCEPTION: usize = 44;

/// Contractions: beginnings, and endings in words divided by `|`. Beginnings are there with a capital letter too, and `'` also as
/// the typographic apostrophe.
const CONTRACTIONS: [(&str, &str); 16] = [
    ("i", "'m m 'm|a m|a"),
    ("could how i might must not should there these they those we what when where who why would you", "'ve ve"),
    (
        "he how i it she that there these they this those we what when where who why you",
        "'d 'd|'ve 'll 'll|'ve d|ve ll|ve",
    ),
    ("he how i it that there these they this those we what when where who why you", "d"),
    ("he how it let she that there this what when where who why", "'s"),
    ("he how she that there this what when where who why", "s"),
    ("how there these they those we what when where who why you", "'re"),
    ("how there these they those what when where why you", "re"),
    ("how it that there these they this those what when where who why you", "ll"),
    ("how", "'d|'y"),
    (
        "ai are ca could dare did do does had has have is may might must need ought sha should was were wo would",
        "n't nt",
    ),
    ("ca could did do does had may might must need ought sha should wo would", "n't|'ve nt|ve"),
    ("c'm", "on"),
    ("can", "not"),
    ("gon", "na"),
    ("got", "ta"),
];

/// The same without capital letters.
const AS_THEY_ARE: [(&str, &str); 3] =
    [("1 2 3 4 5 6 7 8 9 10 11 12", "a.m. am p.m. pm"), ("y y'", "all"), ("°", "C|. F|. K|. c|. f|. k|.")];

/// What stays whole; `'` also as the typographic apostrophe.
const WHOLE: &str = r#"
    ' '' 'Cause 'Cos 'Coz 'Cuz 'S 'bout 'cause 'cos 'coz 'cuz 'd 'em 'll 'nuff 're 's ‘S ‘s em ll nuff — C++ and/or w/o
    Doin Doin' Goin Goin' Havin Havin' Lovin Lovin' Nothin Nothin' Nuthin Nuthin' Ol Ol' Somethin Somethin'
    doin doin' goin goin' havin havin' lovin lovin' nothin nothin' nuthin nuthin' ol ol' somethin somethin'
    Ma'am ma'am O'clock o'clock a.m. p.m. e.g. E.g. E.G. i.e. I.e. I.E. v.s. vs. co. Co. Corp. Inc. Ltd. Bros.
    Adm. Dr. Gen. Gov. Jr. Messrs. Mr. Mrs. Ms. Ph.D. Prof. Rep. Rev. Sen. St. Mt.
    Jan. Feb. Mar. Apr. Jun. Jul. Aug. Sep. Sept. Oct. Nov. Dec.
    Ak. Ala. Ariz. Ark. Calif. Colo. Conn. D.C. Del. Fla. Ga. Ia. Id. Ill. Ind. Kan. Kans. Ky. La. Mass. Md. Mich. Minn. Miss.
    Mo. Mont. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Okla. Ore. Pa. S.C. Tenn. Va. Wash. Wis.
    a. b. c. d. e. f. g. h. i. j. k. l. m. n. o. p. q. r. s. t. u. v. w. x. y. z. ä. ö. ü.
    (*_*) (-8 (-: (-; (-_-) (._.) (: (; (= (>_<) (^_^) (o: (¬_¬) (ಠ_ಠ) (╯°□°）╯︵┻━┻ )-: ): -_- -__- ._. 0.0 0.o 0_0 0_o
    8) 8-) 8-D 8D :'( :') :'-( :'-) :( :(( :((( :() :) :)) :))) :* :-( :-(( :-((( :-) :-)) :-))) :-* :-/ :-0 :-3 :-> :-D :-O
    :-P :-X :-] :-o :-p :-x :-| :-} :/ :0 :1 :3 :> :D :O :P :X :] :o :o) :p :x :| :} ;) ;-) ;-D ;D ;_; <.< </3 <3 <33 <333
    =( =) =/ =3 =D =[ =] =| >.< >.> >:( >:o ><(((*> @_@ O.O O.o O_O O_o V.V V_V XD XDD [-: [: [= ]= ^_^ ^__^ ^___^ o.0 o.O o.o
    o_0 o_O o_o v.v v_v xD xDD ¯\(ツ)/¯ ಠ_ಠ ಠ︵ಠ \") \n \t <space>
"#;

/// An exception's words, and those that the rules alone find, as their lengths in bytes.
struct Exception {
    text: String,
    words: Vec<u8>,
    by_rules: Vec<u8>,
}

/// The exceptions, and their places by the hash of their text.
static EXCEPTIONS: LazyLock<(Vec<Exception>, Table)> = LazyLock::new(|| {
    let (mut all, mut places) = (Vec::new(), Table::default());
    places.clear();
    let mut add = |words: &[&str]| {
        for apostrophe in ["'", "’"] {
            let words: Vec<String> = words.iter().map(|word| word.replace('\'', apostrophe)).collect();
            let text = words.concat();
            let place = all.len() as u32;
            if places.get_or_insert(hash(&text), place) == place {
                let by_rules = lengths(by_rules(&text).into_iter());
                all.push(Exception { by_rules, words: lengths(words.iter().map(String::as_str)), text });
            }
        }
    };
    for (beginnings, endings) in CONTRACTIONS {
        for (beginning, ending) in pairs(beginnings, endings) {
            let capital = beginning[..1].to_uppercase() + &beginning[1..];
            for beginning in [beginning, &capital] {
                add(&std::iter::once(beginning).chain(ending.split('|')).collect::<Vec<_>>());
            }
        }
    }
    for (beginnings, endings) in AS_THEY_ARE {
        for (beginning, ending) in pairs(beginnings, endings) {
            add(&std::iter::once(beginning).chain(ending.split('|')).collect::<Vec<_>>());
        }
    }
    WHOLE.split_whitespace().for_each(|whole| add(&[whole]));
    (all, places)
});

fn pairs<'a>(beginnings: &'a str, endings: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    beginnings.split(' ').flat_map(move |beginning| endings.split(' ').map(move |ending| (beginning, ending)))
}

fn lengths<'a>(words: impl Iterator<Item = &'a str>) -> Vec<u8> {
    words.map(|word| word.len() as u8).collect()
}

fn get(text: &str) -> Option<&'static Exception> {
    if text.len() > LONGEST_EXCEPTION {
        return None;
    }
    let (all, places) = &*EXCEPTIONS;
    places.get(hash(text)).map(|place| &all[place as usize]).filter(|exception| exception.text == text)
}

/// Whether a text is an exception.
pub fn contains(text: &str) -> bool {
    get(text).is_some()
}

/// The lengths in bytes of an exception's words.
pub fn parts(text: &str) -> Option<&'static [u8]> {
    get(text).map(|exception| exception.words.as_slice())
}

/// Whether a text is an exception that the rules would take apart into these words.
pub fn taken_apart_alike(text: &str, words: &[&str]) -> bool {
    get(text).is_some_and(|e| {
        e.by_rules.len() == words.len() && e.by_rules.iter().zip(words).all(|(n, word)| usize::from(*n) == word.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_an_exception_are_all_of_it() {
        for exception in &EXCEPTIONS.0 {
            let text = &exception.text;
            let sum = |lengths: &[u8]| lengths.iter().map(|n| usize::from(*n)).sum::<usize>();
            assert_eq!((sum(&exception.words), sum(&exception.by_rules)), (text.len(), text.len()), "{text}");
            assert!(text.len() <= LONGEST_EXCEPTION, "{text}");
        }
        // Two of spaCy's 1,347 are white space, and three no text has between spaces.
        assert!(EXCEPTIONS.0.len() > 1_300, "{}", EXCEPTIONS.0.len());
    }
}
