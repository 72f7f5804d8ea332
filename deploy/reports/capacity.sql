-- How full processors, memory and file systems are, where that is going, and the days until they are full.
WITH points AS (
    SELECT host, 'cpu' AS resource, time, sum(value) AS value
    FROM metric
    WHERE name = 'system.cpu.utilization' AND attributes['cpu.mode'] NOT IN ('idle', 'iowait')
      AND time >= getvariable('from') AND time < getvariable('to')
      AND (getvariable('tenant') IS NULL OR tenant = getvariable('tenant'))
    GROUP BY host, time
    UNION ALL
    SELECT host, 'memory', time, value
    FROM metric
    WHERE name = 'system.memory.utilization' AND attributes['system.memory.state'] = 'used'
      AND time >= getvariable('from') AND time < getvariable('to')
      AND (getvariable('tenant') IS NULL OR tenant = getvariable('tenant'))
    UNION ALL
    SELECT host, 'disk ' || attributes['system.filesystem.mountpoint'], time, value
    FROM metric
    WHERE name = 'system.filesystem.utilization' AND attributes['system.filesystem.state'] = 'used'
      AND time >= getvariable('from') AND time < getvariable('to')
      AND (getvariable('tenant') IS NULL OR tenant = getvariable('tenant'))
), trends AS (
    SELECT host, resource, count(*) AS points, avg(value) AS mean, max(value) AS highest, arg_max(value, time) AS latest,
           -- Less than an hour is no trend.
           CASE WHEN max(time) - min(time) >= INTERVAL 1 HOUR THEN regr_slope(value, epoch(time) / 86400) + 0 END AS per_day
    FROM points
    GROUP BY host, resource
)
SELECT host, resource, points, round(mean, 4) AS mean, round(highest, 4) AS highest, round(latest, 4) AS latest,
       round(per_day, 4) AS per_day,
       CASE WHEN per_day > 0 AND resource <> 'cpu' THEN round((1 - latest) / per_day, 1) END AS days_until_full
FROM trends
ORDER BY latest DESC, host, resource
