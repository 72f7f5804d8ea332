package lake

import (
	"maps"
	"testing"

	"github.com/millrace/millrace/pkg/config"
	"github.com/millrace/millrace/pkg/servertest"
)

// TestTheTwoThousandthCommit takes longer than those who run the tests without servers would wait.
func TestTheTwoThousandthCommit(t *testing.T) {
	if _, ok := servertest.RequireLake(t); ok {
		testCommitsDoNotGrow(t, 2000)
	}
}

// TestOnServers runs what holds on a local disk with the catalogs and the storage that are servers.
func TestOnServers(t *testing.T) {
	servers, ok := servertest.RequireLake(t)
	if !ok {
		return
	}
	t.Setenv("AWS_ACCESS_KEY_ID", servers.AccessKey) // AWS's own chain
	t.Setenv("AWS_SECRET_ACCESS_KEY", servers.SecretKey)
	before := place
	t.Cleanup(func() { place = before })
	for name, p := range places(servers) {
		t.Run(name, func(t *testing.T) {
			place = p
			for name, test := range map[string]func(*testing.T){
				"commit":             TestCommitKeepsOffsetsWithTheRows,
				"advance":            TestAnAdvanceWithoutRowsIsASnapshot,
				"conflict":           TestStaleBaseIsRefused,
				"four writers":       TestWritersOfDifferentPartitionsMakeProgress,
				"lost answer":        TestALostAnswerIsLookedUp,
				"outage":             TestAnOutageEndsWithTheContext,
				"other source":       TestOtherSourceIsRefused,
				"rolled back":        TestRollbackIsSeen,
				"expire":             TestExpiryKeepsTheOffsets,
				"discard":            TestDiscardRemovesTheFiles,
				"create and evolve":  TestPlanMakesAndEvolves,
				"evolve at once":     TestEvolvingAtOnce,
				"create at once":     TestCreatingAtOnce,
				"files of many days": TestFilesOfManyDays,
				"large file":         TestALargeFile,
				"delete, writer":     TestDeleteFindsWhatIsAppendedMeanwhile,
				"delete, compaction": TestDeleteGivesWayToCompaction,
				"delete, failing":    TestDeleteThatFailsChangesNothing,
				"purge":              TestPurgeLeavesNoTrace,
				"purge, writer":      TestPurgeBesideAWriter,
				"purge, no answer":   TestPurgeRemovesWhatExpiryLeft,
			} {
				t.Run(name, test)
			}
		})
	}
}

func places(servers servertest.Lake) map[string]func(*testing.T) Config {
	on := func(t *testing.T, catalog, uri, warehouse string) Config {
		cfg := Default()
		cfg.Catalog, cfg.URI, cfg.Warehouse, cfg.Namespace = catalog, uri, warehouse, servertest.Name(t)
		if catalog == SQL {
			cfg.Credential = config.Secret(servers.Password)
		}
		return cfg
	}
	s3 := Storage{"s3.endpoint": servers.S3, "s3.region": "us-east-1"}
	return map[string]func(*testing.T) Config{
		"sql on a local disk": func(t *testing.T) Config { return on(t, SQL, servers.SQL, t.TempDir()) },
		"sql on S3": func(t *testing.T) Config {
			cfg := on(t, SQL, servers.SQL, "s3://lake/sql")
			cfg.Storage = s3
			return cfg
		},
		"rest on S3": func(t *testing.T) Config {
			cfg := on(t, REST, servers.REST, "")
			cfg.Storage = Storage{"s3.access-key-id": servers.AccessKey, "s3.secret-access-key": servers.SecretKey}
			maps.Copy(cfg.Storage, s3)
			return cfg
		},
	}
}
