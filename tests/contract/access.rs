//! `docs/tokens.md`: who may do what is there as the program decides it.

use crate::markdown::{Document, quoted};
use contract::{Action, Role};
use ingress::routes::ROUTES;
use std::collections::BTreeSet;
use strum::IntoEnumIterator as _;

#[test]
fn table_of_actions_matches_the_program() {
    let page = Document::read("docs/tokens.md");
    let rows = page.rows("Who may do what");
    let actions: Vec<_> = Action::all().collect();
    assert_eq!(rows.len(), actions.len(), "every action has one row");
    for (action, row) in actions.into_iter().zip(rows) {
        let yes = |is: bool| if is { "yes" } else { "" };
        let name = action.as_str();
        assert_eq!(quoted(&row[0]), [name]);
        let routes = ROUTES.iter().filter(|route| route.action == Some(action));
        let routes: BTreeSet<_> = routes.map(|route| format!("{} {}", route.method, route.path)).collect();
        assert_eq!(quoted(&row[1]).into_iter().collect::<BTreeSet<_>>(), routes, "{name}");
        let rights = Role::iter().map(|role| action.roles().contains(&role));
        let rights: Vec<_> = rights.chain([action.can_be_limited()]).map(yes).collect();
        assert_eq!(row[2..], rights, "{name}");
    }
}

#[test]
fn every_role_is_described() {
    let roles: BTreeSet<_> = Role::iter().map(|role| role.as_str().to_owned()).collect();
    assert_eq!(Document::read("docs/tokens.md").names("Tokens", 0), roles);
}
