// Package e2e holds the end-to-end suite: the built binary, run as processes that are stopped and killed, judged by ids
// and hashes of all fields. What was acknowledged is found in every destination, once, as it was sent.
//
// readme.sh runs the README's commands as written. readers/ has readers in Python that share no code with ours.
package e2e
