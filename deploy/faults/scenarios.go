package main

import "github.com/millrace/millrace/pkg/lag"

// scenarios is the table of all of them. docs/faults.md says what each asserts.
func scenarios() []scenario {
	return []scenario{
		{1, "leader_killed", "kill -9 of a broker that leads partitions", leaderKilled, []lag.Why{lag.BrokerDown}},
		{2, "bounces", "five hard bounces of leaders and controllers", bounces, []lag.Why{lag.BrokerDown}},
		{3, "half_dead", "a broker whose packets are dropped both ways while its sockets stay open", halfDead, []lag.Why{lag.BrokerDown}},
		{4, "frozen", "a leading broker stopped by SIGSTOP past its session, and let go on, repeatedly", frozen, []lag.Why{lag.BrokerDown}},
		{5, "coordinator_killed", "kill -9 of the coordinator of a consumer group", coordinatorKilled, []lag.Why{lag.BrokerDown}},
		{6, "consumer_killed", "kill -9 of each destination's consumer between its acknowledgement and the commit", consumerKilled, nil},
		{7, "lake_killed", "kill -9 of the lake's writer at every step", lakeKilled, nil},
		{8, "storm", "members join, leave and are killed while a slow sink is at work", storm, []lag.Why{lag.RebalanceLoop}},
		{9, "wedged", "a call of a sink that never comes back", wedged, []lag.Why{lag.StuckMember}},
		{10, "items_turned_away", "Elasticsearch answers 429 for 30 % of items inside of HTTP 200", itemsTurnedAway, nil},
		{11, "elasticsearch_down", "Elasticsearch answers 503, then refuses connections, at full rate", elasticsearchDown, []lag.Why{lag.SinkDown}},
		{12, "content_errors", "Elasticsearch refuses 1 % for their content, then meets its shard limit", contentErrors, []lag.Why{lag.SinkDown}},
		{13, "credentials_refused", "Elasticsearch answers 401, then 403", credentialsRefused, []lag.Why{lag.SinkDown}},
		{14, "cassandra_fails", "Cassandra's writes time out and are unavailable, then its process stops and starts", cassandraFails, []lag.Why{lag.SinkDown}},
		{15, "disk_full", "the lake's disk is full while it writes", diskFull, []lag.Why{lag.SinkDown}},
		{16, "poison", "a record that does not decode, then 10,000 in a row", poison, nil},
		{17, "oversized", "records over Kafka's limit, and batches that decompress to more than a consumer takes", oversized, nil},
		{18, "registry_down", "the schema registry stops; known schemas, then an unknown one", registryDown, []lag.Why{lag.RegistryDown}},
		{19, "two_gateways", "a client publishes the same events twice, through two gateways", twoGateways, nil},
		{20, "recreated", "the topic is deleted and made again under consumers and sources", recreated, []lag.Why{lag.TopicRecreated}},
		{21, "retention", "retention overtakes stopped consumers", retention, []lag.Why{lag.DataExpired}},
		{22, "clocks", "sources and consumers whose clocks are an hour ahead and behind", clocks, nil},
		{23, "transactions", "a transactional producer that aborts, and one that hangs", transactions, []lag.Why{lag.TransactionOpen}},
	}
}
