package main

// scenarios is the table of all of them. docs/faults.md says what each asserts.
func scenarios() []scenario {
	return []scenario{
		{1, "leader_killed", "kill -9 of a broker that leads partitions", leaderKilled},
		{6, "consumer_killed", "kill -9 of each destination's consumer between its acknowledgement and the commit", consumerKilled},
		{7, "lake_killed", "kill -9 of the lake's writer at every step", lakeKilled},
		{10, "items_turned_away", "Elasticsearch answers 429 for 30 % of items inside of HTTP 200", itemsTurnedAway},
		{11, "elasticsearch_down", "Elasticsearch answers 503, then refuses connections, at full rate", elasticsearchDown},
		{12, "content_errors", "Elasticsearch refuses 1 % for their content, then meets its shard limit", contentErrors},
		{13, "credentials_refused", "Elasticsearch answers 401, then 403", credentialsRefused},
		{14, "cassandra_fails", "Cassandra's writes time out and are unavailable, then its process stops and starts", cassandraFails},
		{15, "disk_full", "the lake's disk is full while it writes", diskFull},
		{16, "poison", "a record that does not decode, then 10,000 in a row", poison},
		{18, "registry_down", "the schema registry stops; known schemas, then an unknown one", registryDown},
		{19, "two_gateways", "a client publishes the same events twice, through two gateways", twoGateways},
	}
}
