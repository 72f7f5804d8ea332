// Package spark holds jobs for Apache Spark over the lake and the topics, and their tests.
package spark
