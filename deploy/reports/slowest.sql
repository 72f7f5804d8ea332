-- The operations that take longest, by the time within which 99 of 100 are done.
SELECT service, operation, count(*) AS calls,
       quantile_disc(duration_us, 0.5) / 1000 AS p50_ms, quantile_disc(duration_us, 0.95) / 1000 AS p95_ms,
       quantile_disc(duration_us, 0.99) / 1000 AS p99_ms, max(duration_us) / 1000 AS max_ms
FROM performance
WHERE time >= getvariable('from') AND time < getvariable('to')
  AND (getvariable('tenant') IS NULL OR tenant = getvariable('tenant'))
GROUP BY service, operation
ORDER BY p99_ms DESC, service, operation
LIMIT 50
