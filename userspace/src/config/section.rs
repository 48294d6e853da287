//! Sections: tables of the document, all of whose keys are known or reported.
//!
//! A function that returns `None` has reported why.

use toml::de::DeTable;

use super::field::Field;
use super::reader::{Place, Reader};
use super::suggest;
use super::value::{Fault, plain};

/// The keys of one kind of section.
pub(super) struct Schema {
    /// As in the file: `[daemon]`, `[[cluster]]`.
    pub(super) header: &'static str,
    pub(super) keys: &'static [&'static str],
    /// Keys that the design has and this version has not, and what to do instead.
    pub(super) unsupported: &'static [(&'static str, &'static str)],
}

/// One table of the document, all of whose keys are known or reported.
pub(super) struct Section<'d> {
    schema: &'static Schema,
    /// The key path, empty at the top level.
    path: String,
    at: usize,
    table: &'d DeTable<'d>,
}

impl<'d> Section<'d> {
    /// Opens a table and reports the keys that `schema` does not have.
    pub(super) fn open(
        reader: &mut Reader,
        schema: &'static Schema,
        path: String,
        at: usize,
        table: &'d DeTable<'d>,
    ) -> Self {
        let section = Self { schema, path, at, table };
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if !schema.keys.contains(&name) {
                let place = Place { key: section.key(&plain(name)), at: key.span().start };
                reader.report(&place, section.unknown(name));
            }
        }
        section
    }

    fn unknown(&self, name: &str) -> Fault {
        let Schema { header, keys, unsupported } = self.schema;
        if let Some((_, remedy)) = unsupported.iter().find(|(key, _)| *key == name) {
            return Fault::new("not supported by this version", *remedy);
        }
        if name == "password" && keys.contains(&"password_file") {
            return Fault::new(
                "a password must not be in the configuration",
                "put it into a file of mode 0600 and write password_file = \"/path/of/it\"",
            );
        }
        let homes: Vec<&str> = super::SCHEMAS
            .iter()
            .filter(|schema| schema.keys.contains(&name))
            .map(|schema| schema.header)
            .collect();
        let remedy = if let Some(key) = suggest::nearest(name, keys) {
            format!("do you mean {key}?")
        } else if !homes.is_empty() {
            format!("it belongs to {}", homes.join(" or "))
        } else {
            format!("the keys of {header} are: {}", keys.join(", "))
        };
        Fault::new(format!("unknown key of {header}"), remedy)
    }

    /// Returns the key path of `name` in this section.
    fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Returns the place of a key that is not there: the section's head.
    pub(super) fn place(&self, name: &str) -> Place {
        Place { key: self.key(name), at: self.at }
    }

    /// Returns the value of `name`, if it is there.
    pub(super) fn field(&self, name: &str) -> Option<Field<'d>> {
        debug_assert!(self.schema.keys.contains(&name), "{name} is not in the schema");
        let value = self.table.get(name)?;
        Some(Field::new(self.key(name), value))
    }

    /// Returns the names of the sections under `key`, as far as they have one, with their places.
    pub(super) fn names_of(&self, key: &str) -> Vec<(String, Place)> {
        let sections = self.table.get(key).and_then(|value| value.get_ref().as_array());
        let tables = sections.into_iter().flatten().filter_map(|item| item.get_ref().as_table());
        tables
            .filter_map(|table| {
                let spanned = table.get("name")?;
                let name = spanned.get_ref().as_str()?;
                let path = format!("{}[{}].name", self.key(key), plain(name));
                Some((name.to_owned(), Place { key: path, at: spanned.span().start }))
            })
            .collect()
    }

    /// Returns whether an unknown key was reported that stands for `name`.
    pub(super) fn is_misspelt(&self, name: &str) -> bool {
        let keys = self.schema.keys;
        self.table
            .keys()
            .map(|key| key.get_ref().as_ref())
            .any(|key: &str| !keys.contains(&key) && suggest::nearest(key, keys) == Some(name))
    }

    /// Returns the value of `name`, and reports `remedy` if it is not there.
    pub(super) fn require(
        &self,
        reader: &mut Reader,
        name: &str,
        remedy: &str,
    ) -> Option<Field<'d>> {
        let field = self.field(name);
        if field.is_none() && !self.is_misspelt(name) {
            reader.report(&self.place(name), Fault::new("is missing", remedy));
        }
        field
    }

    /// Returns what `read` makes of the value of `name`; `default` if it is not there.
    pub(super) fn optional<T>(
        &self,
        reader: &mut Reader,
        name: &str,
        default: T,
        read: impl FnOnce(&mut Reader, &Field<'d>) -> Option<T>,
    ) -> Option<T> {
        match self.field(name) {
            Some(field) => read(reader, &field),
            None => Some(default),
        }
    }
}
