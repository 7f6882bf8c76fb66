//! Commands for operators.

use crate::role::Role;
use common::runtime::settings::{Env, Variable, table_rows};
use std::collections::BTreeMap;

/// An environment without variables: reading it shows every default.
struct NoEnv;

impl Env for NoEnv {
    fn get(&self, _name: &str) -> Option<String> {
        None
    }
}

/// `docs/configuration.md`: every variable of every role, once, under the roles that read it.
#[must_use]
pub fn settings_page() -> String {
    let mut readers: BTreeMap<Vec<Role>, Vec<Variable>> = BTreeMap::new();
    let mut order: Vec<Variable> = Vec::new();
    let mut roles_of: BTreeMap<&'static str, Vec<Role>> = BTreeMap::new();
    for role in Role::ALL {
        for variable in role.variables(&NoEnv) {
            let roles = roles_of.entry(variable.name).or_default();
            if roles.is_empty() {
                order.push(variable);
            }
            roles.push(role);
        }
    }
    for variable in order {
        let roles = roles_of.get(variable.name).cloned().unwrap_or_default();
        readers.entry(roles).or_default().push(variable);
    }
    let mut groups: Vec<_> = readers.into_iter().collect();
    // What most roles read comes first.
    groups.sort_by_key(|(roles, _)| (std::cmp::Reverse(roles.len()), roles.clone()));
    let mut page = String::from(INTRODUCTION);
    for (roles, variables) in groups {
        let names: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
        page.push_str(&format!("\n## {}\n\n{}", names.join(", "), table_rows(&variables)));
    }
    page
}

const INTRODUCTION: &str = "# Configuration\n\n\
    Every role reads its settings from the environment. All mistakes are reported together, before anything\n\
    starts. This page is what `broker settings` prints; a test compares the two.\n\n\
    `broker up` decides the addresses, the CSP's and the table's itself (see `broker up --help`), makes tokens\n\
    where the environment names none, and writes log lines as text; every other variable works there as well.\n";
