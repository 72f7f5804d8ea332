-- What each tenant has consumed, by resource: what a bill is made from.
SELECT tenant, resource, unit, sum(quantity) AS quantity, count(*) AS records,
       min(coalesce(period_start, time)) AS first, max(coalesce(period_end, time)) AS last
FROM usage
-- By the time of the record, which is one: each is in one bill, whatever period it is about.
WHERE time >= getvariable('from') AND time < getvariable('to')
  AND (getvariable('tenant') IS NULL OR tenant = getvariable('tenant'))
GROUP BY tenant, resource, unit
ORDER BY tenant, resource, unit
