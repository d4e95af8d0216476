//! Text that others wrote, fit for a terminal: nothing in it moves the cursor, turns the direction of writing around, or
//! cannot be seen.

use std::fmt::Write;

/// Adds a character, as an escape if it is not printable.
pub fn push(text: &mut String, character: char) {
    if is_printable(character) {
        text.push(character);
    } else {
        // Writing to a string cannot fail.
        let _ = write!(text, "{}", character.escape_default());
    }
}

/// Whether a character can be seen and changes none beside it. The standard library's escapes know which of Unicode's
/// categories do not: control and format characters, separators other than the space, marks that combine, and what has no
/// meaning (yet).
pub fn is_printable(character: char) -> bool {
    match character {
        ' '..='~' => true,
        // Letters and symbols by their category that are blank.
        '\u{115f}' | '\u{1160}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}' => false,
        _ => character.escape_debug().len() == 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_escaped() {
        let hidden = [
            '\0'..='\x1f',
            '\x7f'..='\u{a0}',
            '\u{ad}'..='\u{ad}',
            '\u{34f}'..='\u{34f}',
            '\u{61c}'..='\u{61c}',
            '\u{115f}'..='\u{1160}',
            '\u{180b}'..='\u{180f}',
            '\u{2000}'..='\u{200f}',
            '\u{2028}'..='\u{202f}',
            '\u{205f}'..='\u{206f}',
            '\u{2800}'..='\u{2800}',
            '\u{3000}'..='\u{3000}',
            '\u{3164}'..='\u{3164}',
            '\u{fe00}'..='\u{fe0f}',
            '\u{feff}'..='\u{feff}',
            '\u{fff9}'..='\u{fffb}',
            '\u{e0000}'..='\u{e01ef}',
        ];
        for character in hidden.into_iter().flatten() {
            let mut text = String::new();
            push(&mut text, character);
            assert!(text.len() > 1 && text.is_ascii(), "{text:?}");
        }
        for character in (' '..='~').chain("éß…—漢字Жא".chars()) {
            let mut text = String::new();
            push(&mut text, character);
            assert_eq!(text, character.to_string());
        }
    }
}
