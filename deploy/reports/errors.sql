-- How many operations fail, of those of which it is known how they ended, and what most of them say.
SELECT service, operation, count(*) AS calls, count_if(ok) AS succeeded, count_if(NOT ok) AS failed,
       round(count_if(NOT ok) / nullif(count(ok), 0), 6) AS error_rate,
       mode(error) FILTER (NOT ok) AS most_said, max(time) FILTER (NOT ok) AS last_failed
FROM performance
WHERE time >= getvariable('from') AND time < getvariable('to')
  AND (getvariable('tenant') IS NULL OR tenant = getvariable('tenant'))
GROUP BY service, operation
ORDER BY error_rate DESC NULLS LAST, failed DESC, service, operation
