// Temporal's server as its command-line tool starts it for development (`temporal server start-dev --db-filename`), without the
// web page: all services in one process, one history shard, SQLite in a file. The tool itself can't be built from the Go module
// proxy, which lacks one of its modules; this does the same with the server's library.
//
//	temporal-server PORT DATABASE
package main

import (
	"fmt"
	"net"
	"os"
	"strconv"

	"go.temporal.io/server/chasm/lib/activity"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/membership/static"
	"go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	schema "go.temporal.io/server/schema/sqlite"
	"go.temporal.io/server/temporal"
)

const (
	localhost = "127.0.0.1"
	namespace = "default"
	thisOne   = "active"
	store     = "sqlite-default"
	// More than any run makes: what limits calls has to be the server, not its quota.
	unlimited = 1_000_000
)

func main() {
	if len(os.Args) != 3 {
		fail("usage", "temporal-server PORT DATABASE")
	}
	port, err := strconv.Atoi(os.Args[1])
	check("port", err)
	database := &config.SQL{
		PluginName:   sqlite.PluginName,
		DatabaseName: os.Args[2],
		// A write-ahead log with a sync at each commit. The tool's default, a rollback journal, is slower.
		ConnectAttributes: map[string]string{"mode": "rwc", "journal_mode": "wal", "synchronous": "full"},
	}
	if _, err := os.Stat(database.DatabaseName); os.IsNotExist(err) {
		check("schema", schema.SetupSchema(database))
	}
	named, err := schema.NewNamespaceConfig(thisOne, namespace, false, nil)
	check("namespace", err)
	check("namespace", schema.CreateNamespaces(database, named))

	conf := configuration(port, database)
	hosts := map[primitives.ServiceName]static.Hosts{}
	for _, name := range temporal.DefaultServices {
		address := fmt.Sprintf("%s:%d", localhost, conf.Services[name].RPC.GRPCPort)
		hosts[primitives.ServiceName(name)] = static.SingleLocalHost(address)
	}
	server, err := temporal.NewServer(
		temporal.WithConfig(conf),
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithStaticHosts(hosts),
		temporal.WithLogger(log.NewZapLogger(log.BuildZapLogger(log.Config{Stdout: false, Level: "error"}))),
		temporal.WithDynamicConfigClient(settings()),
		temporal.InterruptOn(temporal.InterruptCh()),
	)
	check("configuration", err)
	check("server", server.Start())
}

func configuration(port int, database *config.SQL) *config.Config {
	conf := &config.Config{}
	conf.Persistence.DefaultStore = store
	conf.Persistence.VisibilityStore = store
	conf.Persistence.NumHistoryShards = 1
	conf.Persistence.DataStores = map[string]config.DataStore{store: {SQL: database}}
	conf.Global.Membership.BroadcastAddress = localhost
	conf.ClusterMetadata = &cluster.Config{
		FailoverVersionIncrement: 10,
		MasterClusterName:        thisOne,
		CurrentClusterName:       thisOne,
		ClusterInformation: map[string]cluster.ClusterInformation{thisOne: {
			Enabled:                true,
			InitialFailoverVersion: 1,
			RPCAddress:             fmt.Sprintf("%s:%d", localhost, port),
			ClusterID:              "e7c8b8b0-6d1c-4a43-9d61-2f6c1f0a1b11",
		}},
	}
	conf.DCRedirectionPolicy.Policy = "noop"
	conf.Services = map[string]config.Service{}
	for _, name := range temporal.DefaultServices {
		rpc := config.RPC{GRPCPort: port, BindOnIP: localhost}
		if name != string(primitives.FrontendService) {
			rpc.GRPCPort = freePort()
		} else {
			rpc.HTTPPort = freePort()
		}
		conf.Services[name] = config.Service{RPC: rpc}
	}
	conf.Archival.History.State = "disabled"
	conf.Archival.Visibility.State = "disabled"
	conf.NamespaceDefaults.Archival.History.State = "disabled"
	conf.NamespaceDefaults.Archival.Visibility.State = "disabled"
	conf.PublicClient.HostPort = fmt.Sprintf("%s:%d", localhost, port)
	return conf
}

// What the tool sets, and quotas out of the way.
func settings() dynamicconfig.StaticClient {
	set := dynamicconfig.StaticClient{
		dynamicconfig.HistoryCacheHostLevelMaxSize.Key(): 8096,
		dynamicconfig.EnableChasm.Key():                  true,
		activity.Enabled.Key():                           true,
	}
	for _, key := range []string{
		"frontend.persistenceMaxQPS", "history.persistenceMaxQPS", "matching.persistenceMaxQPS", "worker.persistenceMaxQPS",
		"frontend.rps", "frontend.namespaceRPS", "frontend.namespaceCount", "frontend.namespaceRPS.visibility",
		"history.rps", "matching.rps",
	} {
		set[dynamicconfig.MakeKey(key)] = unlimited
	}
	return set
}

func freePort() int {
	listener, err := net.Listen("tcp", localhost+":0")
	check("port", err)
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func check(what string, err error) {
	if err != nil {
		fail(what, err)
	}
}

func fail(what string, why any) {
	fmt.Fprintf(os.Stderr, "%s: %v\n", what, why)
	os.Exit(1)
}
