//! The names of requests to nodes.

use super::Subjects;
use crate::nodes::NodeVerb;
use domain::NodeId;

impl Subjects {
    /// Request subject of a verb that the runner of a node answers.
    #[must_use]
    pub fn node_request(&self, node: &NodeId, verb: NodeVerb) -> String {
        format!("{}.node.{node}.{}", self.prefix, verb.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strum::IntoEnumIterator as _;

    #[test]
    fn request_names_its_node_and_verb() {
        let (subjects, node) = (Subjects::with_prefix("blue").unwrap(), NodeId::parse("rack-1_a").unwrap());
        let named: Vec<_> = NodeVerb::iter().map(|verb| subjects.node_request(&node, verb)).collect();
        assert_eq!(
            named,
            ["remove", "lease", "execute", "inventory", "runtime"]
                .map(|verb| format!("blue.node.rack-1_a.{verb}"))
        );
    }

    #[test]
    fn name_of_a_node_is_a_single_token() {
        for wider in ["a.b", "*", ">", "a b", ""] {
            assert!(NodeId::parse(wider).is_err(), "{wider:?}");
        }
    }
}
