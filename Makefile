# `make help` lists the targets.
stack: ## download (first time) and start real Kafka, Cassandra, Elasticsearch and registry on 127.0.0.1
	@deploy/local/stack.sh up
stack-down: ## stop them; their data stays
	@deploy/local/stack.sh down
stack-clean: ## stop them and remove their data
	@deploy/local/stack.sh clean
.PHONY: stack stack-down stack-clean
