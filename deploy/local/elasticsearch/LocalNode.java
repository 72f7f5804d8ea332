package org.elasticsearch.node; // InternalSettingsPreparer is not public

import java.nio.file.Path;
import java.util.Map;
import java.util.Set;
import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.plugins.PluginsLoader;

/** Runs one Elasticsearch node from the jars on Maven Central: HOME DATA HTTP_PORT TRANSPORT_PORT. */
public final class LocalNode {
  public static void main(String[] args) throws Exception {
    String name = "local";
    Path home = Path.of(args[0]);
    Settings settings = Settings.builder()
        .put("cluster.name", "millrace-local")
        .put("node.name", name)
        .put("discovery.type", "single-node")
        .put("network.host", "127.0.0.1")
        .put("path.home", home.toString())
        .put("path.data", args[1])
        .put("http.port", args[2])
        .put("transport.port", args[3])
        // A laptop's disk is often fuller than 95 %; indices would turn read-only under the tests.
        .put("cluster.routing.allocation.disk.threshold_enabled", false)
        // The serial collector leaves garbage until the heap is full: counted as in use, it would refuse requests (429).
        .put("indices.breaker.total.use_real_memory", false)
        .put("action.destructive_requires_name", false) // tests delete theirs by pattern
        .build();
    LogConfigurator.registerErrorListener();
    LogConfigurator.setNodeName(name);
    Environment env = InternalSettingsPreparer.prepareEnvironment(settings, Map.of(), home.resolve("config"), () -> name);
    LogConfigurator.configure(env, true);
    PluginsLoader modules = PluginsLoader.createPluginsLoader(
        PluginsLoader.loadModulesBundles(home.resolve("modules")), Set.of(), Map.of(), false);
    Node node = new Node(env, modules);
    Runtime.getRuntime().addShutdownHook(new Thread(() -> {
      try {
        node.close();
      } catch (Exception e) {
        e.printStackTrace();
      }
    }));
    node.start();
    Thread.currentThread().join();
  }
}
