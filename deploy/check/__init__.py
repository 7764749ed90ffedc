"""`make deploy-check`: the containers, manifests, rules and dashboards are tried with the real programs that read them."""
