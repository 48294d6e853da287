//! Fields: values of the document, converted from what TOML calls them to what they mean.
//!
//! A function that returns `None` has reported why.

use std::fmt::Display;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::DeValue;

use super::reader::{Place, Reader};
use super::section::{Schema, Section};
use super::suggest;
use super::value::{Fault, plain, quoted};

/// One value of the document.
pub(super) struct Field<'d> {
    pub(super) place: Place,
    value: &'d DeValue<'d>,
}

impl<'d> Field<'d> {
    pub(super) fn new(key: String, value: &'d Spanned<DeValue<'d>>) -> Self {
        Self { place: Place { key, at: value.span().start }, value: value.get_ref() }
    }

    /// Reports a value of the wrong type; `example` is the right side of an assignment.
    fn mismatch(&self, reader: &mut Reader, expected: &str, example: &str) {
        // The elements of a list are named `key[2]`: the example is for one of them.
        let name = self.place.key.rsplit('.').next().unwrap_or_default();
        let remedy = match name.strip_suffix(']') {
            Some(_) => format!("write it as in {example}"),
            None => format!("write {name} = {example}"),
        };
        reader.report(&self.place, Fault::new(self.mismatch_problem(expected), remedy));
    }

    fn mismatch_problem(&self, expected: &str) -> String {
        format!("expected {expected}, found {}", description(self.value))
    }

    /// Returns what `parse` makes of a string.
    pub(super) fn parse<T>(
        &self,
        reader: &mut Reader,
        example: &str,
        parse: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<T> {
        let Some(text) = self.value.as_str() else {
            self.mismatch(reader, "a string", example);
            return None;
        };
        parse(text).map_err(|fault| reader.report(&self.place, fault)).ok()
    }

    /// Returns the meaning of one of a few words; `unsupported` are words of other versions.
    pub(super) fn choose<T: Copy>(
        &self,
        reader: &mut Reader,
        choices: &[(&'static str, T)],
        unsupported: &[(&'static str, &'static str)],
    ) -> Option<T> {
        self.parse(reader, &quoted(choices[0].0), |text| {
            if let Some((_, meaning)) = choices.iter().find(|(word, _)| *word == text) {
                return Ok(*meaning);
            }
            if let Some((word, remedy)) = unsupported.iter().find(|(word, _)| *word == text) {
                let problem = format!("{} is not supported by this version", quoted(word));
                return Err(Fault::new(problem, *remedy));
            }
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            let remedy = match (suggest::nearest(text, &words), words.as_slice()) {
                (Some(word), _) => format!("do you mean {}?", quoted(word)),
                (None, [only]) => format!("write {}", quoted(only)),
                (None, _) => {
                    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
                    format!("write one of {}", words.join(", "))
                }
            };
            Err(Fault::new(format!("{} is not a known value", quoted(text)), remedy))
        })
    }

    /// Returns a whole number within `range`, of which `example` is one.
    pub(super) fn integer(
        &self,
        reader: &mut Reader,
        example: u32,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let Some(integer) = self.value.as_integer() else {
            self.mismatch(reader, "a whole number", &example.to_string());
            return None;
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        let fitting = number
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| range.contains(number));
        if fitting.is_none() {
            let problem = format!("{} is out of range", plain(integer.as_str()));
            let remedy = format!("write a number from {} to {}", range.start(), range.end());
            reader.report(&self.place, Fault::new(problem, remedy));
        }
        fitting
    }

    /// Returns a boolean, of which `example` is one.
    pub(super) fn boolean(&self, reader: &mut Reader, example: &str) -> Option<bool> {
        let boolean = self.value.as_bool();
        if boolean.is_none() {
            self.mismatch(reader, "true or false", example);
        }
        boolean
    }

    /// Returns a string, a number or a boolean as the text that a server would answer.
    pub(super) fn scalar(&self, reader: &mut Reader, example: &str) -> Option<String> {
        match self.value {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(integer) => {
                let number = i128::from_str_radix(integer.as_str(), integer.radix());
                number.ok().map(|number| number.to_string())
            }
            DeValue::Float(float) => Some(float.as_str().to_owned()),
            DeValue::Boolean(boolean) => Some(u8::from(*boolean).to_string()),
            DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                self.mismatch(reader, "a string or a number", example);
                None
            }
        }
    }

    /// Returns the elements of a list; `example` is a whole list.
    pub(super) fn list(&self, reader: &mut Reader, example: &str) -> Option<Vec<Field<'d>>> {
        let Some(array) = self.value.as_array() else {
            self.mismatch(reader, "a list", example);
            return None;
        };
        let numbered = array
            .iter()
            .enumerate()
            .map(|(index, value)| Field::new(format!("{}[{}]", self.place.key, index + 1), value));
        Some(numbered.collect())
    }

    /// Returns the words of a command, 1 to `count_max`; `parse` is told which one it reads, 0 for the program.
    pub(super) fn command(
        &self,
        reader: &mut Reader,
        example: &str,
        count_max: usize,
        remedy: &str,
        parse: impl Fn(&str, usize) -> Result<String, Fault>,
    ) -> Option<Vec<String>> {
        let words = self.list(reader, example)?;
        if words.is_empty() || words.len() > count_max {
            let problem = format!("a command of {} words", words.len());
            reader.report(&self.place, Fault::new(problem, remedy));
            return None;
        }
        let element = example.trim_matches(['[', ']']).split(',').next().unwrap_or_default();
        let words = words.iter().enumerate();
        // Every word is read before the first `None` counts, so that all errors are found.
        let words: Vec<_> = words
            .map(|(index, word)| word.parse(reader, element, |text| parse(text, index)))
            .collect();
        words.into_iter().collect()
    }

    /// Returns a list of 1 to `count_max` strings, none of them twice, each parsed by `parse`.
    pub(super) fn distinct<T: Clone + Display + PartialEq>(
        &self,
        reader: &mut Reader,
        example: &str,
        count_max: usize,
        parse: impl Fn(&str) -> Result<T, Fault>,
    ) -> Option<Vec<(T, Place)>> {
        let element = example.trim_matches(['[', ']']);
        let read = |reader: &mut Reader, field: &Self| field.parse(reader, element, &parse);
        self.distinct_by(reader, example, count_max, read, T::clone)
    }

    /// Returns a list of 1 to `count_max` values that `read` reads, none of them with the `key` of
    /// another.
    pub(super) fn distinct_by<T, K: Display + PartialEq>(
        &self,
        reader: &mut Reader,
        example: &str,
        count_max: usize,
        read: impl Fn(&mut Reader, &Self) -> Option<T>,
        key: impl Fn(&T) -> K,
    ) -> Option<Vec<(T, Place)>> {
        let fields = self.list(reader, example)?;
        if fields.is_empty() {
            let remedy = format!("write at least one, as in {example}");
            reader.report(&self.place, Fault::new("the list is empty", remedy));
            return None;
        }
        self.limit(reader, fields.len(), count_max)?;
        let mut values: Vec<(T, Place)> = Vec::new();
        let mut sound = true;
        for field in fields {
            let Some(value) = read(reader, &field) else {
                sound = false;
                continue;
            };
            if values.iter().any(|(other, _)| key(other) == key(&value)) {
                let problem = format!("{} is there twice", quoted(&key(&value).to_string()));
                reader.report(&field.place, Fault::new(problem, "remove one of the two"));
                sound = false;
                continue;
            }
            values.push((value, field.place));
        }
        sound.then_some(values)
    }

    /// Returns whether it is a list without elements, where that says something.
    pub(super) fn is_empty_list(&self) -> bool {
        self.value.as_array().is_some_and(|list| list.is_empty())
    }

    /// Returns whether it is a table, for what may be written in short.
    pub(super) fn is_table(&self) -> bool {
        self.value.as_table().is_some()
    }

    /// Returns the table of a `[section]`.
    pub(super) fn table(
        &self,
        reader: &mut Reader,
        schema: &'static Schema,
    ) -> Option<Section<'d>> {
        let Some(table) = self.value.as_table() else {
            let remedy = match self.value {
                DeValue::Array(_) => format!("write {}, once, with single brackets", schema.header),
                DeValue::String(_)
                | DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_)
                | DeValue::Table(_) => format!("write {} and its keys below", schema.header),
            };
            let fault = Fault::new(self.mismatch_problem("a section"), remedy);
            reader.report(&self.place, fault);
            return None;
        };
        Some(Section::open(reader, schema, self.place.key.clone(), self.place.at, table))
    }

    /// Returns the tables of `[[sections]]`, each under a path with its name: `cluster[main]`.
    ///
    /// More than `count_max` and names that are there twice are reported.
    pub(super) fn tables(
        &self,
        reader: &mut Reader,
        schema: &'static Schema,
        count_max: usize,
    ) -> Option<Vec<Section<'d>>> {
        let header = schema.header;
        let Some(array) = self.value.as_array() else {
            let fault = Fault::new(
                self.mismatch_problem("a list of sections"),
                format!("write {header}, with double brackets"),
            );
            reader.report(&self.place, fault);
            return None;
        };
        if array.is_empty() {
            let fault = Fault::new("the list is empty", format!("add a {header} section"));
            reader.report(&self.place, fault);
            return None;
        }
        self.limit(reader, array.len(), count_max)?;
        let mut sections = Vec::new();
        let mut names: Vec<(&str, Place)> = Vec::new();
        for (index, element) in array.iter().enumerate() {
            let at = element.span().start;
            let Some(table) = element.get_ref().as_table() else {
                let field = Field::new(format!("{}[#{}]", self.place.key, index + 1), element);
                let problem = field.mismatch_problem("a section");
                let remedy = format!("write {header} and its keys below");
                reader.report(&field.place, Fault::new(problem, remedy));
                continue;
            };
            let name = table.get("name").and_then(|name| Some((name.get_ref().as_str()?, name)));
            let path = match name {
                Some((name, _)) if !name.is_empty() => {
                    format!("{}[{}]", self.place.key, plain(name))
                }
                Some(_) | None => format!("{}[#{}]", self.place.key, index + 1),
            };
            if let Some((name, spanned)) = name {
                let place = Place { key: format!("{path}.name"), at: spanned.span().start };
                if let Some((_, first)) = names.iter().find(|(other, _)| *other == name) {
                    let line = reader.line(first);
                    let problem =
                        format!("{} is the name of another, at line {line}", quoted(name));
                    let remedy = format!("give each {header} section a name of its own");
                    reader.report(&place, Fault::new(problem, remedy));
                } else {
                    names.push((name, place));
                }
            }
            sections.push(Section::open(reader, schema, path, at, table));
        }
        Some(sections)
    }

    fn limit(&self, reader: &mut Reader, count: usize, count_max: usize) -> Option<()> {
        if count > count_max {
            let fault = Fault::new(
                format!("there are {count}, and {count_max} is the most"),
                "remove some, or divide them among several clusters or daemons",
            );
            reader.report(&self.place, fault);
            return None;
        }
        Some(())
    }
}

/// Returns a value as it is called in an error.
fn description(value: &DeValue) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(integer) => format!("the number {}", plain(integer.as_str())),
        DeValue::Float(float) => format!("the number {}", plain(float.as_str())),
        DeValue::Boolean(boolean) => boolean.to_string(),
        DeValue::Datetime(_) => "a date or time".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a section".to_owned(),
    }
}
