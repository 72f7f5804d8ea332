package main

// scenarios is the table of all of them. docs/faults.md says what each asserts.
func scenarios() []scenario {
	return []scenario{
		{1, "leader_killed", "kill -9 of a broker that leads partitions", leaderKilled},
		{6, "consumer_killed", "kill -9 of each destination's consumer between its acknowledgement and the commit", consumerKilled},
	}
}
